// The level of a microphone as bars on a canvas; the latest is at the right edge.
import { sharpen } from "./waveform.js";

const BAR = 3;
const GAP = 3;

export class Level {
  #peaks = [];

  constructor(canvas) {
    this.canvas = canvas;
  }

  clear() {
    this.#peaks = [];
    this.#draw();
  }

  // Show the loudest sample of a moment, 0 to 1.
  add(peak) {
    this.#peaks.push(peak);
    this.#draw();
  }

  #draw() {
    const [context, width, height] = sharpen(this.canvas);
    const style = getComputedStyle(this.canvas);
    const number = Math.floor(width / (BAR + GAP));
    const peaks = this.#peaks = this.#peaks.slice(-number);
    for (let bar = 0; bar < number; bar++) {
      const peak = peaks[peaks.length - number + bar] ?? 0;
      const size = Math.max(BAR, Math.sqrt(peak) * (height - 4));
      context.fillStyle = style.getPropertyValue(peak ? "--accent" : "--line");
      context.beginPath();
      context.roundRect(bar * (BAR + GAP), (height - size) / 2, BAR, size, BAR / 2);
      context.fill();
    }
  }
}
