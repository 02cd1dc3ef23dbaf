// The row of buttons that save what is shown, and the same request as a line for a terminal.
import { stem } from "./files.js";
import { curlCommand, fetchFile } from "./service.js";

// The service's formats of a clip, and who reads them.
const CLIP_FORMATS = {
  csv: "a table for spreadsheets: 2D, 3D and joint angles",
  npz: "arrays for NumPy",
  coco: "2D as COCO results",
  alphapose: "2D as AlphaPose's list",
  openpose: "2D as OpenPose's files, one a frame, in a zip",
  trc: "3D for OpenSim, one file a person",
  c3d: "3D for Mokka and Visual3D, one file a person",
  bvh: "3D for Blender and MotionBuilder, one file a person",
  mp4: "a film: the clip with its skeletons beside the 3D view",
};
const PICTURE = "a PNG: the photo with its skeletons beside the 3D view";

export class Exports {
  // say: tells a text, and whether it is bad news.
  constructor(holder, curl, say) {
    Object.assign(this, { holder, curl, say });
  }

  hide() {
    this.holder.hidden = this.curl.hidden = true;
  }

  // file: null where there is nothing to send again (the webcam). whole: the service can make files of it.
  offer(recording, file, options, signal, whole = true) {
    const name = file ? stem(file) : "webcam";
    const json = () => save(`${name}.json`, new Blob([recording.json], { type: "application/json" }));
    const buttons = [this.#button("json", "everything that is shown, as the service told it", json)];
    if (file && whole) {
      const made = recording.kind === "photo" ? { picture: PICTURE } : CLIP_FORMATS;
      const work = (format) => () => this.#fetch(recording.kind, file, name, format, options, signal);
      buttons.push(...Object.entries(made).map(([format, words]) => this.#button(format, words, work(format))));
    }
    if (file) {
      this.curl.textContent = curlCommand(recording.kind, file, options);
      this.curl.hidden = false;
      buttons.push(this.#button("copy as curl", "this request for a terminal", () => this.#copy()));
    }
    this.holder.replaceChildren("save:", ...buttons);
    this.holder.hidden = false;
  }

  #button(text, words, work) {
    const made = document.createElement("button");
    [made.textContent, made.title] = [text, words];
    made.onclick = async () => {
      made.disabled = true;
      try {
        await work();
      } catch (error) {
        if (error.name !== "AbortError") this.say(error.message, true);
      }
      made.disabled = false;
    };
    return made;
  }

  async #fetch(kind, file, name, format, options, signal) {
    this.say(kind === "clip" ? `Making ${format}: the service goes through the clip once more…` : "Drawing…");
    const plain = { ...options, states: undefined };
    const wanted = format === "picture" ? plain : { ...plain, format };
    const found = await fetchFile(kind, file, wanted, format === "picture" ? "image/png" : "*/*", signal);
    // The service knows no names: it calls every clip `clip`.
    const saved = found.name ? found.name.replace(/^clip/, name) : `${name}.png`;
    save(saved, found.blob);
    this.say(`Saved as ${saved}.`);
  }

  async #copy() {
    if (navigator.clipboard) {
      await navigator.clipboard.writeText(this.curl.textContent);
      this.say("Copied. Run it in the folder of the file.");
      return;
    }
    // Pages that came over plain http from another machine may not write there.
    getSelection().selectAllChildren(this.curl);
    this.say("The line is selected: copy it with Ctrl+C.");
  }
}

function save(name, blob) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}
