// Masks over the slices: fetched from the server until the one that is shown is the newest.

import { fetchImage } from "./slices.js";

export class Masks {
  /**
   * @param {import("./slices.js").SliceRow[]} rows
   * @param {(text: string) => void} say  tells the reader what goes wrong
   */
  constructor(rows, say) {
    this.rows = rows;
    this.say = say;
    this.shown = -1;
    this.isFetching = false;
    this.hasFailed = false;
  }

  /** @param {number} newest  number of the server's mask */
  async show(newest) {
    this.newest = newest;
    if (this.isFetching) return;
    this.isFetching = true;
    try {
      while (this.shown !== this.newest) await this.fetch(this.newest);
      if (this.hasFailed) this.say("");
      this.hasFailed = false;
    } catch (error) {
      if (error instanceof TypeError) return; // the server is away; its next state asks again
      this.hasFailed = true;
      this.say(`The mask that you see is not the newest: ${error.message}`);
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
