// The text of a live sound: grey while it may change, black when it stays. Screen readers hear only what stays.
import { clock } from "./text.js";

export class LiveText {
  #kept = "";     // of segments that have ended, and all text of mode online
  #partial = "";  // of the segment that is being spoken
  #line = null;   // the paragraph that text of mode online goes to
  #grey = null;

  constructor(element) {
    this.element = element;
  }

  get whole() {
    return (this.#kept + this.#partial).trim();
  }

  clear() {
    [this.#kept, this.#partial, this.#line] = ["", "", null];
    this.#grey = paragraph("");
    this.#grey.classList.add("partial");
    this.#grey.setAttribute("aria-hidden", "true");
    this.element.replaceChildren(this.#grey);
    this.#showPartial();
  }

  // Show a frame of the server.
  take({ mode, text, timestamp }) {
    const isAtEnd = this.element.scrollTop + this.element.clientHeight >= this.element.scrollHeight - 40;
    if (mode === "2pass-online") {
      this.#partial += text;
    } else if (mode === "2pass-offline") {
      [this.#kept, this.#partial] = [this.#kept + text, ""];
      if (text.trim()) this.#grey.before(paragraph(text.trim(), startOf(timestamp)));
    } else {
      this.#kept += text;
      this.#line ??= this.element.insertBefore(paragraph(""), this.#grey);
      this.#line.lastChild.append(this.#line.lastChild.textContent ? text : text.trimStart());
    }
    this.#showPartial();
    if (isAtEnd) this.element.scrollTop = this.element.scrollHeight;
  }

  // Nothing follows; what is still grey was never confirmed.
  end() {
    if (!this.whole) this.element.replaceChildren(Object.assign(document.createElement("p"), { className: "empty", textContent: "No speech was found." }));
  }

  #showPartial() {
    this.#grey.lastChild.textContent = this.#partial.trimStart();
    this.#grey.hidden = !this.#partial.trim();
  }
}

// Return a paragraph of a text, with the time at which it begins.
function paragraph(text, startMs) {
  const [line, time, words] = ["p", "span", "span"].map((name) => document.createElement(name));
  time.className = "time";
  time.textContent = startMs === undefined ? "" : clock(startMs / 1000);
  words.textContent = text;
  line.append(time, words);
  return line;
}

function startOf(timestamp) {
  return timestamp ? JSON.parse(timestamp)[0]?.[0] : undefined;
}
