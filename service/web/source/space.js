// The 3D view: joints in metres as the service gives them (x right, y down, z away), shown with the camera: in the clip's
// world (y up, the floor at 0) where that is known, else upright as the camera was.
import {
  AmbientLight, AxesHelper, BufferGeometry, Color, CylinderGeometry, DirectionalLight, GridHelper, Group, Line,
  LineBasicMaterial, Matrix4, Mesh, MeshLambertMaterial, PerspectiveCamera, Scene, SphereGeometry, Vector3, WebGLRenderer,
} from "three";
import { OrbitControls } from "three/addons/controls/OrbitControls.js";
import { colour } from "./colours.js";

const UP = new Vector3(0, 1, 0);
const BONE = new CylinderGeometry(0.022, 0.022, 1, 10);
const JOINT = new SphereGeometry(0.035, 14, 10);
const BESIDE = 0.9; // metres between people whose place is not known
const ANKLE_M = 0.08; // so high an ankle stands above the sole
const CELL_M = 0.5;
const UPRIGHT = new Matrix4().makeScale(1, -1, -1);
const TURN = Math.PI / 24; // at each press of a key
const NEARER = 0.95;

export class Space {
  constructor(holder) {
    this.holder = holder;
    this.bones = [];
    this.scene = new Scene();
    this.scene.background = new Color(0x16181d);
    this.people = new Group();
    this.camera = new PerspectiveCamera(45, 1, 0.05, 200);
    this.grid = new GridHelper(24 * CELL_M, 24, 0x555a66, 0x3a3f4a);
    this.eye = eye();
    const light = new DirectionalLight(0xffffff, 1.6);
    light.position.set(1, 3, 2);
    this.scene.add(new AmbientLight(0xffffff, 1.2), light, this.grid, this.people, this.eye);
    this.renderer = new WebGLRenderer({ antialias: true, preserveDrawingBuffer: true });
    holder.append(this.renderer.domElement);
    this.controls = new OrbitControls(this.camera, this.renderer.domElement);
    this.still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    this.controls.autoRotateSpeed = 1.2;
    this.controls.addEventListener("start", () => (this.controls.autoRotate = false));
    holder.addEventListener("keydown", (event) => this.#key(event));
    this.materials = new Map();
    this.renderer.setAnimationLoop(() => this.#render());
  }

  // Looks at the people of these frames from the camera's side, from a distance that shows them all.
  look(frames, world) {
    const middle = new Vector3();
    const matrix = inView(world);
    const all = frames.flatMap((people) => people.flatMap((person, index) => placed(person, index, matrix).filter(Boolean)));
    if (!all.length) return;
    all.forEach((joint) => middle.addScaledVector(joint, 1 / all.length));
    const away = all.map((joint) => joint.distanceTo(middle)).sort((a, b) => a - b);
    const reach = Math.max(away[Math.floor(0.9 * (away.length - 1))], 0.8); // one lone far person does not count
    this.controls.target.copy(middle);
    this.camera.position.copy(middle).add(new Vector3(0.7, 0.5, 1).normalize().multiplyScalar(2.9 * reach));
    this.controls.autoRotate = !this.still;
    [this.grid.position.x, this.grid.position.z] = [middle.x, middle.z].map((at) => CELL_M * Math.round(at / CELL_M));
  }

  // world: a clip's `camera_to_world`, or null.
  show(people, world) {
    this.people.clear();
    const matrix = inView(world);
    let floor = Infinity;
    people.forEach((person, index) => {
      const joints = placed(person, index, matrix);
      joints.forEach((joint) => joint && (floor = Math.min(floor, joint.y)));
      this.people.add(this.#body(joints, person.id));
    });
    this.eye.matrix.copy(matrix);
    if (world) this.grid.position.y = 0;
    else if (floor < Infinity) this.grid.position.y = floor - ANKLE_M;
  }

  #key(event) {
    const turned = { ArrowLeft: [TURN, 0], ArrowRight: [-TURN, 0], ArrowUp: [0, TURN], ArrowDown: [0, -TURN] }[event.key];
    const nearer = { "+": NEARER, "=": NEARER, "-": 1 / NEARER }[event.key];
    if ((!turned && !nearer) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    this.controls.autoRotate = false;
    if (turned) this.controls.rotateLeft(turned[0]), this.controls.rotateUp(turned[1]);
    if (nearer) this.camera.position.sub(this.controls.target).multiplyScalar(nearer).add(this.controls.target);
  }

  #material(id) {
    if (!this.materials.has(id)) this.materials.set(id, new MeshLambertMaterial({ color: colour(id).replaceAll(" ", ",") }));
    return this.materials.get(id);
  }

  #body(joints, id) {
    const body = new Group();
    const material = this.#material(id);
    joints.forEach((joint) => {
      if (!joint) return;
      const ball = new Mesh(JOINT, material);
      ball.position.copy(joint);
      body.add(ball);
    });
    for (const [a, b] of this.bones) {
      if (!joints[a] || !joints[b]) continue;
      const along = new Vector3().subVectors(joints[b], joints[a]);
      const bone = new Mesh(BONE, material);
      bone.position.addVectors(joints[a], joints[b]).multiplyScalar(0.5);
      bone.scale.set(1, along.length(), 1);
      bone.quaternion.setFromUnitVectors(UP, along.normalize());
      body.add(bone);
    }
    return body;
  }

  #render() {
    const { clientWidth: width, clientHeight: height } = this.holder;
    if (this.width !== width || this.height !== height) {
      [this.width, this.height] = [width, height];
      this.camera.aspect = width / Math.max(height, 1);
      this.camera.updateProjectionMatrix();
      this.renderer.setPixelRatio(window.devicePixelRatio || 1);
      this.renderer.setSize(width, height);
    }
    this.controls.update();
    this.renderer.render(this.scene, this.camera);
  }
}

// From the camera's axes to the view's (y up, z to the viewer).
function inView(world) {
  if (!world) return UPRIGHT;
  const [a, b, c] = world.rotation.map((row, n) => [...row, world.translation[n]]);
  return new Matrix4().set(...a, ...b, ...c, 0, 0, 0, 1);
}

// Joints of a person in the view's axes; null where one is not known.
function placed(person, index, matrix) {
  const [x, y, z] = person.position ?? [BESIDE * index, 0, 3];
  return (person.joints3d ?? []).map((joint) => joint && new Vector3(joint[0] + x, joint[1] + y, joint[2] + z).applyMatrix4(matrix));
}

// The camera that took the picture: its axes and the cone of its view, in its own axes.
function eye() {
  const group = new Group();
  group.matrixAutoUpdate = false;
  group.matrix.copy(UPRIGHT);
  const axes = new AxesHelper(0.4);
  const corners = [[-1, -1], [1, -1], [1, 1], [-1, 1], [-1, -1]].map(([x, y]) => new Vector3(0.25 * x, 0.18 * y, 0.4));
  const lines = corners.flatMap((corner) => [new Vector3(), corner, ...corners]);
  group.add(axes, new Line(new BufferGeometry().setFromPoints(lines), new LineBasicMaterial({ color: 0x888888 })));
  return group;
}
