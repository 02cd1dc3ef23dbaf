// What a chosen file is, and whether it is worth sending. Knows names, kinds and sizes; opens nothing.

const CLIP_SUFFIX = /\.(mp4|m4v|mov|webm|mkv|avi|gif)$/i;
const MEGABYTE = 1024 * 1024;

// Browsers name no kind for what they cannot play.
export function isClip({ type, name }) {
  return type ? type.startsWith("video/") || type === "image/gif" : CLIP_SUFFIX.test(name);
}

// Why the service would not take it, in words; "" if it may. A body over the limit is cut off by the service while the
// browser still sends, and then the browser tells of a broken connection instead of the reason.
export function refusal(file, limits) {
  const [clip, picture] = [isClip(file), file.type.startsWith("image/")];
  if (file.type && !clip && !picture) return `“${file.name}” is neither a photo nor a clip (its kind is ${file.type}).`;
  if (!file.size) return `“${file.name}” is empty: it has 0 bytes.`;
  const most = clip ? limits?.max_clip_mb : limits?.max_image_mb;
  if (file.size <= (most ?? Infinity) * MEGABYTE) return "";
  const size = (file.size / MEGABYTE).toFixed(1);
  return `“${file.name}” has ${size} MB; this service takes ${clip ? "clips" : "photos"} of at most ${most} MB.`;
}

// A name without its suffix.
export function stem({ name }) {
  return name.replace(/\.[^.]*$/, "");
}
