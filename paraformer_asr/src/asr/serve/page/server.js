// Calls of the server: OpenAI's interface.

export class ServerError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }

  get canRetry() {
    return [408, 429, 500, 503].includes(this.status) || this.status === UNREACHABLE;
  }
}

const UNREACHABLE = -1;

// Return the models, each with its id and the modes of its websocket.
export async function listModels({ key }) {
  const answer = await call("v1/models", { key });
  return (await answer.json()).data;
}

export async function transcribe(file, format, { model, key, signal }) {
  const form = new FormData();
  if (model) form.append("model", model);
  form.append("response_format", format);
  if (format === "verbose_json") {
    for (const value of ["word", "segment"]) form.append("timestamp_granularities[]", value);
  }
  form.append("file", file, "sound"); // the name stays here
  const answer = await call("v1/audio/transcriptions", { method: "POST", body: form, key, signal });
  return { text: await answer.text(), warning: answer.headers.get("x-warning") ?? "" };
}

// Return a websocket for live sound. It cannot send headers: the key goes where a server's log does not show it, if its
// characters are allowed there.
export function openStream(key) {
  const address = new URL("v1/stream", document.baseURI);
  address.protocol = address.protocol.replace("http", "ws");
  const isToken = /^[\w!#$%&'*+.^`|~-]+$/.test(key);
  if (key && !isToken) address.searchParams.set("api_key", key);
  return new WebSocket(address, ["binary", ...(isToken ? [`openai-insecure-api-key.${key}`] : [])]);
}

// Return why a websocket was not opened: a browser does not say.
export async function whyRefused(key) {
  try {
    await listModels({ key });
  } catch (error) {
    return error;
  }
  return new ServerError("The server does not accept live sound now: try again later.", 503);
}

async function call(path, { key, ...init }) {
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  let answer;
  try {
    answer = await fetch(path, { ...init, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("The server cannot be reached.", UNREACHABLE);
  }
  if (answer.ok) return answer;
  const body = await answer.json().catch(() => null);
  throw new ServerError(body?.error?.message ?? `The server answered ${answer.status}.`, answer.status);
}
