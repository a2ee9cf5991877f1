// The line over the slices that tells what keeps the page from working.

const banner = document.getElementById("banner");

export function showBanner(text) {
  banner.textContent = text;
  banner.hidden = false;
}

export function hideBanner() {
  banner.hidden = true;
}
