// The microphone: whether there may be one, and why it cannot be used.
import { ServerError } from "./server.js";

const REASONS = {
  NotAllowedError: "The browser was not allowed to use the microphone.",
  NotFoundError: "No microphone was found.",
  NotReadableError: "The microphone cannot be used: another program may have it.",
};

export const mayHaveMicrophone = Boolean(navigator.mediaDevices?.getUserMedia); // only over https, or on localhost

// Return the stream of the microphone.
export async function openMicrophone() {
  try {
    return await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1 } });
  } catch (error) {
    throw new ServerError(REASONS[error.name] ?? `The microphone cannot be used: ${error.message}`);
  }
}

export function closeMicrophone(stream) {
  stream?.getTracks().forEach((track) => track.stop());
}
