// Starts the page, or tells why it cannot be started.

import { showBanner } from "./banner.js";

try {
  if (!document.createElement("canvas").getContext("webgl2")) throw new Error("this browser has no WebGL 2, which draws the slices");
  await import("./main.js");
} catch (error) {
  showBanner(`The page could not be opened: ${error.message}. Your points are on disk.`);
}
