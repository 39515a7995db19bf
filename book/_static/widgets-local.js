// Widget modules come from the book's own lib/ folder, at any depth of page and over file:// too.
window.requirejs.config({ baseUrl: new URL("lib/", document.currentScript.src).href, waitSeconds: 0 });
