// The words of an answer: to read, to click, to walk through with the arrow keys.
import { clock } from "./text.js";

const SURE = 0.85;
const DOUBTFUL = 0.5;

export class Transcript {
  #words = []; // {start, end, button}
  #now = null;

  constructor(element, onSeek) {
    [this.element, this.onSeek] = [element, onSeek];
    element.addEventListener("keydown", (event) => this.#walk(event));
  }

  clear() {
    [this.#words, this.#now] = [[], null];
    this.element.replaceChildren();
  }

  // Show an answer in verbose_json; return whether it says how certain its words are.
  show({ text, words = [], segments = [] }) {
    this.clear();
    const pieces = withBlanks(text, words);
    const paragraphs = segments.length ? segments : [{ start: 0, end: Infinity }];
    let next = 0;
    paragraphs.forEach((segment, number) => {
      const isLast = number === paragraphs.length - 1;
      const line = document.createElement("span");
      while (next < words.length && (isLast || words[next].start < segment.end)) {
        if (line.childNodes.length) line.append(pieces[next]);
        line.append(this.#button(words[next++]));
      }
      if (line.childNodes.length) this.element.append(paragraph(segment.start, line));
    });
    if (!this.#words.length) this.element.append(emptyNote(text));
    else this.#words[0].button.tabIndex = 0;
    return words.some((word) => word.confidence !== undefined);
  }

  // Mark the word at a time; while the sound plays it stays in sight.
  move(time, isPlaying) {
    const isShown = isPlaying || time > 0;
    const word = isShown ? this.#words.find(({ start, end }) => start <= time && time < end) : null;
    if (word === this.#now) return;
    this.#now?.button.classList.remove("now");
    word?.button.classList.add("now");
    this.#now = word;
    if (word && isPlaying) this.#reveal(word.button);
  }

  // Scroll within the transcript, never the page.
  #reveal({ offsetTop, offsetHeight }) {
    const { scrollTop, clientHeight } = this.element;
    const isSeen = scrollTop <= offsetTop && offsetTop + offsetHeight <= scrollTop + clientHeight;
    if (!isSeen) this.element.scrollTop = offsetTop - clientHeight / 3;
  }

  #button({ word, start, end, confidence = 1 }) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "word" + (confidence < DOUBTFUL ? " doubtful" : confidence < SURE ? " less" : "");
    button.textContent = word;
    button.title = `${start.toFixed(2)} s, ${Math.round(100 * confidence)} % certain`;
    button.tabIndex = -1;
    button.style.setProperty("--sure", `${Math.round(100 * Math.min(confidence / SURE, 1))}%`);
    button.addEventListener("click", () => this.onSeek(start));
    button.addEventListener("focus", () => this.#rove(button));
    this.#words.push({ start, end, button });
    return button;
  }

  // Only one word is a stop of the tabulator.
  #rove(button) {
    for (const other of this.element.querySelectorAll("[tabindex='0']")) other.tabIndex = -1;
    button.tabIndex = 0;
  }

  #walk(event) {
    const place = this.#words.findIndex(({ button }) => button === event.target);
    const last = this.#words.length - 1;
    const places = { ArrowLeft: place - 1, ArrowRight: place + 1, Home: 0, End: last };
    if (place < 0 || !(event.key in places)) return;
    event.preventDefault();
    this.#words[Math.min(Math.max(places[event.key], 0), last)].button.focus();
  }
}

// What stands before each word in the text: Chinese words have no blank between them.
function withBlanks(text, words) {
  let place = 0;
  return words.map(({ word }) => {
    const start = text.indexOf(word, place);
    if (start < 0) return " ";
    const between = text.slice(place, start);
    place = start + word.length;
    return between;
  });
}

function paragraph(start, line) {
  const element = document.createElement("p");
  const time = document.createElement("span");
  time.className = "time";
  time.textContent = clock(start);
  element.append(time, line);
  return element;
}

function emptyNote(text) {
  const note = document.createElement("p");
  note.className = "empty";
  note.textContent = text || "No speech was found in this sound.";
  return note;
}
