// Masks over the slices: fetched from the server until the one that is shown is the newest.

import { Away, fetchImage } from "./slices.js";

export class Masks {
  /**
   * @param {import("./slices.js").SliceRow[]} rows
   * @param {HTMLElement} message  tells the reader what goes wrong
   */
  constructor(rows, message) {
    this.rows = rows;
    this.message = message;
    this.shown = -1;
    this.isFetching = false;
    this.told = "";
  }

  /** @param {number} newest  number of the server's mask */
  async show(newest) {
    this.newest = newest;
    if (this.isFetching) return;
    this.isFetching = true;
    try {
      while (this.shown !== this.newest) await this.fetch(this.newest);
      if (this.told && this.message.textContent === this.told) this.message.textContent = "";
      this.told = "";
    } catch (error) {
      if (error instanceof Away) return; // the server's next state asks again
      this.told = `The mask that you see is not the newest: ${error.message}`;
      this.message.textContent = this.told;
    } finally {
      this.isFetching = false;
    }
  }

  async fetch(number) {
    for (const scan of new Set(this.rows.map((row) => row.scan))) {
      const fresh = await fetchImage(`/api/masks/${scan}.nii?${number}`);
      for (const row of this.rows) if (row.scan === scan) row.setMask(fresh);
    }
    this.shown = number;
    document.body.dataset.mask = String(number);
  }
}
