// The service's doors as the page uses them: relative addresses, the key, problems as errors. Knows no page.

let key = "";

export function useKey(text) {
  key = text;
}

function headers(more = {}) {
  return key ? { ...more, Authorization: `Bearer ${key}` } : more;
}

async function problem(response) {
  const body = await response.json().catch(() => ({}));
  const error = new Error(body.detail || `the service answered ${response.status}`);
  error.status = response.status;
  return error;
}

export async function ask(path) {
  const response = await fetch(path, { headers: headers() });
  if (!response.ok) throw await problem(response);
  return response.json();
}

export function address(kind, options) {
  const query = new URLSearchParams(Object.entries(options).filter(([, value]) => value !== undefined && value !== ""));
  return `v1/${kind === "photo" ? "images" : "clips"}?${query}`;
}

// What a file is sent as. Browsers know no kind for some, and the service finds out by itself.
function mediaType(file) {
  return file.type || "application/octet-stream";
}

async function post(kind, file, options, accept, signal) {
  const sent = headers({ "Content-Type": mediaType(file), Accept: accept });
  const request = fetch(address(kind, options), { method: "POST", body: file, headers: sent, signal });
  const response = await request.catch((error) => {
    if (error.name === "AbortError") throw error;
    throw new Error("The connection to the service was lost, or the file can no longer be read.");
  });
  if (!response.ok) throw await problem(response);
  return response;
}

// The answer and the milliseconds of each stage.
export async function sendPhoto(file, options, signal) {
  const response = await post("photo", file, options, "application/json", signal);
  return { answer: await response.json(), stages: stagesOf(response.headers.get("Server-Timing")) };
}

// Hands on each line of the answer as it comes; returns after the last.
export async function sendClip(file, options, signal, onLine) {
  const response = await post("clip", file, options, "application/x-ndjson", signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    const lines = (rest + (value ?? "")).split("\n");
    rest = lines.pop();
    lines.filter(Boolean).forEach((line) => onLine(JSON.parse(line)));
    if (done) return;
  }
}

// The same upload answered as a file of another kind.
export async function fetchFile(kind, file, options, accept, signal) {
  const response = await post(kind, file, options, accept, signal);
  const named = /filename="?([^";]+)/.exec(response.headers.get("Content-Disposition") ?? "");
  return { blob: await response.blob(), name: named?.[1] };
}

export function stagesOf(header) {
  return (header ?? "").split(",").map((part) => /^\s*(\w+);dur=([\d.]+)/.exec(part)).filter(Boolean)
    .map(([, stage, ms]) => [stage, Number(ms)]);
}

export function curlCommand(kind, file, options) {
  const url = new URL(address(kind, options), location.href).href;
  const auth = key ? ` -H "Authorization: Bearer $KEY"` : "";
  return `curl${auth} -H 'Content-Type: ${mediaType(file)}' --data-binary '@${file.name.replaceAll("'", "'\\''")}' '${url}'`;
}

export function liveSocket() {
  const url = new URL("v1/live/frames", location.href);
  url.protocol = url.protocol.replace("http", "ws");
  // A WebSocket has no headers for the key: it goes along as a second subprotocol, in base64url.
  const shown = btoa(key).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
  const socket = new WebSocket(url, ["poselift.v1.msgpack", ...(key ? [`poselift.bearer.${shown}`] : [])]);
  socket.binaryType = "arraybuffer";
  return socket;
}
