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

export async function listModels({ key }) {
  const answer = await call("v1/models", { key });
  return (await answer.json()).data.map((model) => model.id);
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
