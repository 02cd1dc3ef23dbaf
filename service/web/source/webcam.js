// The webcam's pictures to the live door, one in flight: the next is taken when the last was answered.
import { decode, encode } from "@msgpack/msgpack";
import { liveSocket } from "./service.js";

const WIDTH = 640;

export class Webcam {
  // onPose: gets an answer and the seconds that it took. onError: a problem's words; the stream goes on. onEnd: why it ended.
  constructor(video, { onPose, onError, onEnd }) {
    Object.assign(this, { video, onPose, onError, onEnd, seq: 0, started: false });
  }

  async start(options) {
    if (!navigator.mediaDevices) throw new Error("browsers give it only to pages of this machine or over https.");
    const wanted = { video: { width: { ideal: WIDTH } }, audio: false };
    this.stream = await navigator.mediaDevices.getUserMedia(wanted);
    this.video.srcObject = this.stream;
    await this.video.play();
    this.canvas = new OffscreenCanvas(this.video.videoWidth, this.video.videoHeight);
    this.socket = liveSocket();
    this.socket.onmessage = ({ data }) => this.#answer(decode(new Uint8Array(data)));
    this.socket.onclose = ({ reason }) => this.stop(reason || "The service closed the stream.");
    this.socket.onopen = () => this.#send({ type: "start", image_size: this.size, ...options });
    this.began = performance.now();
  }

  get size() {
    return [this.canvas.width, this.canvas.height];
  }

  stop(reason = "") {
    if (!this.stream) return;
    this.stream.getTracks().forEach((track) => track.stop());
    this.stream = null;
    if (this.socket) {
      this.socket.onclose = null;
      this.socket.close();
    }
    this.video.srcObject = null;
    this.onEnd(reason);
  }

  #send(message) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(encode(message));
  }

  #answer(message) {
    if (message.type === "started") this.started = true;
    if (message.type === "pose") this.onPose(message, (performance.now() - this.began) / 1000 - this.sentAt);
    if (message.type === "error") {
      if (!this.started) return this.stop(message.problem.detail); // refused: every picture would be, too
      this.onError(message.problem.detail);
    }
    if (message.type !== "ended") this.#picture();
  }

  async #picture() {
    if (!this.stream) return;
    this.canvas.getContext("2d").drawImage(this.video, 0, 0);
    const blob = await this.canvas.convertToBlob({ type: "image/jpeg", quality: 0.85 });
    const image = new Uint8Array(await blob.arrayBuffer());
    this.sentAt = (performance.now() - this.began) / 1000;
    this.#send({ type: "frame", seq: this.seq++, time: this.sentAt, image });
  }
}
