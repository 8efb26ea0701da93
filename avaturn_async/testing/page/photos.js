// The stage where three photos are taken or chosen.

const VIEWS = { "image-frontal": "From the front", "image-side-1": "From one side", "image-side-2": "From the other side" };

export function photoStage(show, create) {
  const photos = {};
  const $ = show(`<h1>Three photos of the face</h1><p>Take them with the camera, or choose files.</p>
    <div class="photos">${Object.entries(VIEWS).map(([name, title]) => `<div class="photo" data-photo="${name}">
      <div class="shot">no photo yet</div><strong>${title}</strong>
      <div class="row"><label class="pick">Choose<input type="file" accept="image/*" name="${name}" aria-label="${title}"></label>
      <button type="button" class="camera">Camera</button></div></div>`).join("")}</div>
    <h2>Body</h2><div class="row"><label><input type="radio" name="body-type" value="female" checked> female</label>
      <label><input type="radio" name="body-type" value="male"> male</label></div>
    <div class="row end"><button type="button" id="samples">Use sample photos</button>
      <button type="button" class="main" id="create" disabled>Create avatar</button></div><div id="problem" role="alert"></div>`);

  const problem = (text) => {
    $("#problem").className = text ? "error" : "";
    $("#problem").textContent = text;
  };
  const take = (name, blob) => {
    photos[name] = blob;
    const place = $(`[data-photo="${name}"]`);
    const image = document.createElement("img");
    image.alt = VIEWS[name];
    image.src = URL.createObjectURL(blob);
    image.onload = () => URL.revokeObjectURL(image.src);
    place.querySelector(".shot").replaceChildren(image);
    place.classList.add("full");
    $("#create").disabled = Object.keys(photos).length < Object.keys(VIEWS).length;
  };

  for (const name of Object.keys(VIEWS)) {
    const place = $(`[data-photo="${name}"]`);
    place.querySelector("input").onchange = (event) => { if (event.target.files[0]) take(name, event.target.files[0]); };
    place.querySelector(".camera").onclick = async (event) => {
      try {
        problem("");
        await camera(place.querySelector(".shot"), event.target, (blob) => take(name, blob));
      } catch (error) {
        problem(`There is no camera to use here: ${error.message}`);
      }
    };
  }
  $("#samples").onclick = async () => {
    for (const name of Object.keys(VIEWS)) take(name, await sample(VIEWS[name]));
  };
  $("#create").onclick = async () => {
    const form = new FormData();
    for (const [name, blob] of Object.entries(photos)) form.append(name, blob, `${name}.jpg`);
    form.append("body-type", document.querySelector('[name="body-type"]:checked').value);
    $("#create").disabled = true;
    try {
      await create(form);
    } catch (error) {
      problem(error.message);
      $("#create").disabled = false;
    }
  };
}

// The first click starts the camera, the second takes the picture.
async function camera(place, button, taken) {
  const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "user" } });
  const video = document.createElement("video");
  Object.assign(video, { srcObject: stream, muted: true, playsInline: true });
  place.replaceChildren(video);
  await video.play();
  const start = button.onclick;
  button.textContent = "Take it";
  button.onclick = async () => {
    taken(await picture(video.videoWidth, video.videoHeight, (context) => context.drawImage(video, 0, 0)));
    stream.getTracks().forEach((track) => track.stop());
    button.textContent = "Camera";
    button.onclick = start;
  };
}

function sample(title) {
  return picture(240, 320, (context) => {
    context.fillStyle = "#cfd8ea";
    context.fillRect(0, 0, 240, 320);
    context.fillStyle = "#deaa87";
    context.beginPath();
    context.ellipse(title === "From the front" ? 120 : title === "From one side" ? 105 : 135, 150, 66, 88, 0, 0, 7);
    context.fill();
    context.fillStyle = "#3f7ddb";
    context.fillRect(40, 250, 160, 70);
  });
}

function picture(width, height, draw) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  draw(canvas.getContext("2d"));
  return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.9));
}
