// The picture behind the skeletons, and the way through a clip's frames: the browser's own player where it can play the
// clip, else a clock of ours. Skeletons are told frame by frame, never ahead of the picture.

export class Player {
  #url = "";
  #gif = null;
  #clock = 0;
  #recording = null;
  #shown = -1;
  #wanted = -1; // asked for before the video was there
  #settle = () => {};

  // Settled once it is known whether the reader sees the picture.
  ready = Promise.resolve();

  // onFrame: gets the number of the frame that is to be drawn. onPlaying: whether it plays.
  constructor({ video, photo, still }, onFrame, onPlaying) {
    Object.assign(this, { video, photo, still, onFrame, onPlaying });
    video.onplay = () => onPlaying(true);
    video.onpause = () => onPlaying(false);
    video.onloadedmetadata = video.onerror = () => {
      this.#settle();
      if (this.#wanted >= 0) this.go(this.#wanted);
    };
    video.onseeked = () => this.#showAt(video.currentTime);
    this.#follow();
  }

  // Takes away what is shown.
  clear() {
    this.#stopClock();
    this.video.pause();
    this.video.removeAttribute("src");
    this.video.load(); // or it keeps the last picture
    this.photo.removeAttribute("src");
    URL.revokeObjectURL(this.#url);
    this.#gif?.close();
    this.#settle();
    [this.#url, this.#gif, this.#recording, this.#shown, this.#wanted] = ["", null, null, -1, -1];
    this.#reveal(null);
  }

  openPhoto(file) {
    this.photo.src = this.#url = URL.createObjectURL(file);
    this.ready = this.photo.decode().catch(() => {});
    this.#reveal(this.photo);
  }

  openClip(file) {
    if (file.type === "image/gif") {
      // An <img> would play it by itself, away from its skeletons.
      if (window.ImageDecoder) this.#gif = new ImageDecoder({ data: file.stream(), type: file.type });
      this.ready = Promise.resolve();
      this.#reveal(this.still);
      return;
    }
    this.ready = new Promise((settle) => (this.#settle = settle));
    this.video.src = this.#url = URL.createObjectURL(file);
    this.#reveal(this.video);
  }

  openStream() {
    this.#reveal(this.video);
  }

  // The clip's frames, once they come.
  follow(recording) {
    this.#recording = recording;
  }

  // Whether the reader sees the picture itself, and not the skeletons alone.
  get seen() {
    if (!this.photo.hidden) return this.photo.naturalWidth > 0;
    return this.#plays || Boolean(this.#gif);
  }

  // Where there is a video, its skeletons are shown once it shows that frame: a seek takes a while.
  go(index) {
    this.#wanted = this.video.src && !this.video.readyState && !this.video.error ? index : -1;
    if (this.#plays) this.video.currentTime = this.#recording.middle(index);
    else this.#tell(index);
  }

  toggle() {
    if (this.#plays) {
      if (this.video.paused) this.video.play().catch(() => {}); // a new file may end it before it began
      else this.video.pause();
    } else if (this.#clock) {
      this.#stopClock();
    } else if (this.#recording?.frames.length) {
      this.#startClock();
    }
  }

  get #plays() {
    return !this.video.hidden && this.video.src && !this.video.error && this.video.videoWidth > 0;
  }

  #reveal(shown) {
    for (const each of [this.video, this.photo, this.still]) each.hidden = each !== shown;
  }

  #showAt(time) {
    if (!this.#recording?.frames.length || !this.#plays || this.video.seeking) return;
    const now = this.#recording.at(time);
    if (now !== this.#shown) this.#tell(now);
  }

  async #tell(index) {
    this.#shown = index;
    if (this.#gif) await this.#draw(this.#gif, this.#recording.frames[index].index);
    if (this.#shown === index) this.onFrame(index);
  }

  async #draw(gif, number) {
    try {
      const { image } = await gif.decode({ frameIndex: number });
      [this.still.width, this.still.height] = [image.displayWidth, image.displayHeight];
      this.still.getContext("2d").drawImage(image, 0, 0);
      image.close();
    } catch {
      // Another file was chosen meanwhile, or this browser reads fewer frames than the service.
    }
  }

  // The time of the frame that is on the screen, which `currentTime` may be ahead of.
  #follow() {
    const { video } = this;
    if (video.requestVideoFrameCallback) video.requestVideoFrameCallback((_, { mediaTime }) => (this.#showAt(mediaTime), this.#follow()));
    else requestAnimationFrame(() => (this.#showAt(video.currentTime), this.#follow()));
  }

  #startClock() {
    const { frames } = this.#recording;
    const from = this.#shown >= frames.length - 1 ? 0 : Math.max(this.#shown, 0);
    const began = performance.now() / 1000 - frames[from].time;
    const step = () => {
      const now = this.#recording.at(performance.now() / 1000 - began);
      if (now !== this.#shown) this.#tell(now);
      if (now >= frames.length - 1) this.#stopClock();
      else this.#clock = requestAnimationFrame(step);
    };
    this.#clock = requestAnimationFrame(step);
    this.onPlaying(true);
  }

  #stopClock() {
    if (!this.#clock) return;
    cancelAnimationFrame(this.#clock);
    this.#clock = 0;
    this.onPlaying(false);
  }
}
