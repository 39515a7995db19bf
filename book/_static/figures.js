// A figure that is clicked, or for which Enter is pressed, is shown as large as the window; Escape or a click ends that.
document.addEventListener("DOMContentLoaded", () => {
  const box = document.createElement("dialog");
  box.className = "enlarged";
  box.addEventListener("click", () => box.close());
  box.addEventListener("keydown", (event) => { if (event.key === "Escape") box.close(); });   // not all browsers do
  document.body.append(box);
  for (const picture of document.querySelectorAll("figure.numbered img")) {
    Object.assign(picture, { tabIndex: 0, title: "Enlarge" });
    picture.setAttribute("role", "button");
    const enlarge = () => {
      const large = picture.cloneNode();
      for (const name of ["title", "tabindex", "role", "style"]) large.removeAttribute(name);
      // twice its size at most; on a small screen its own size, to be pushed about. A phone shows another in its place
      const own = parseFloat(picture.style.width) || picture.naturalWidth;
      large.style.width = `${Math.max(own, Math.min(0.95 * innerWidth, 2 * own))}px`;
      box.replaceChildren(large);
      box.setAttribute("aria-label", picture.closest("figure").querySelector(".figure-number").textContent);
      box.showModal();
    };
    picture.addEventListener("click", enlarge);
    picture.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        enlarge();
      }
    });
  }
});
