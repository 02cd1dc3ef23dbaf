// The 3D view: joints in metres as the service gives them (x right, y down, z away), shown upright with the camera.
import {
  AmbientLight, AxesHelper, BufferGeometry, CylinderGeometry, DirectionalLight, GridHelper, Group, Line,
  LineBasicMaterial, Mesh, MeshLambertMaterial, PerspectiveCamera, Scene, SphereGeometry, Vector3, WebGLRenderer,
} from "three";
import { OrbitControls } from "three/addons/controls/OrbitControls.js";
import { colour } from "./colours.js";

const UP = new Vector3(0, 1, 0);
const BONE = new CylinderGeometry(0.022, 0.022, 1, 10);
const JOINT = new SphereGeometry(0.035, 14, 10);
const BESIDE = 0.9; // metres between people whose place is not known

export class Space {
  constructor(holder) {
    this.holder = holder;
    this.bones = [];
    this.scene = new Scene();
    this.people = new Group();
    this.camera = new PerspectiveCamera(45, 1, 0.05, 200);
    this.grid = new GridHelper(12, 24, 0x666666, 0x333333);
    const light = new DirectionalLight(0xffffff, 1.6);
    light.position.set(1, 3, 2);
    this.scene.add(new AmbientLight(0xffffff, 1.2), light, this.grid, this.people, eye());
    this.renderer = new WebGLRenderer({ antialias: true, preserveDrawingBuffer: true });
    holder.append(this.renderer.domElement);
    this.controls = new OrbitControls(this.camera, this.renderer.domElement);
    this.controls.autoRotate = true;
    this.controls.autoRotateSpeed = 1.2;
    this.controls.addEventListener("start", () => (this.controls.autoRotate = false));
    this.materials = new Map();
    this.renderer.setAnimationLoop(() => this.#render());
  }

  // Looks at these people from the camera's side, from a distance that shows them all.
  look(people) {
    const middle = new Vector3();
    const all = people.flatMap((person, index) => placed(person, index).filter(Boolean));
    if (!all.length) return;
    all.forEach((joint) => middle.addScaledVector(joint, 1 / all.length));
    const away = all.map((joint) => joint.distanceTo(middle)).sort((a, b) => a - b);
    const reach = Math.max(away[Math.floor(0.9 * (away.length - 1))], 0.8); // one lone far person does not count
    this.controls.target.copy(middle);
    this.camera.position.copy(middle).add(new Vector3(0.7, 0.5, 1).normalize().multiplyScalar(2.6 * reach));
    this.controls.autoRotate = true;
  }

  show(people) {
    this.people.clear();
    let floor = Infinity;
    people.forEach((person, index) => {
      const joints = placed(person, index);
      joints.forEach((joint) => joint && (floor = Math.min(floor, joint.y)));
      this.people.add(this.#body(joints, person.id));
    });
    if (floor < Infinity) this.grid.position.y = floor - 0.08; // an ankle stands so high above the sole
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

// Joints of a person in the view's axes (y up, z to the viewer); null where one is not known.
function placed(person, index) {
  const [x, y, z] = person.position ?? [BESIDE * index, 0, 3];
  return (person.joints3d ?? []).map((joint) => joint && new Vector3(joint[0] + x, -(joint[1] + y), -(joint[2] + z)));
}

// The camera that took the picture, at the origin: its axes and the cone of its view.
function eye() {
  const group = new Group();
  const axes = new AxesHelper(0.4);
  axes.rotation.x = Math.PI;
  const corners = [[-1, -1], [1, -1], [1, 1], [-1, 1], [-1, -1]].map(([x, y]) => new Vector3(0.25 * x, 0.18 * y, -0.4));
  const lines = corners.flatMap((corner) => [new Vector3(), corner, ...corners]);
  group.add(axes, new Line(new BufferGeometry().setFromPoints(lines), new LineBasicMaterial({ color: 0x888888 })));
  return group;
}
