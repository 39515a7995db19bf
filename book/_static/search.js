// A place without words of its own, such as an entry of the index, is shown by the words of its page.
document.addEventListener("DOMContentLoaded", () => {
  const summary = Search.makeSearchSummary;
  Search.makeSearchSummary = (page, words, anchor) =>
    summary(page, words, anchor) ?? summary(page, words, "") ?? document.createTextNode("");
});
// From the disk no page may be fetched: hand the search the words of a page in place of the page.
if (location.protocol === "file:") {
  const fetchPage = window.fetch;
  window.fetch = (address, ...more) => {
    const name = new URL(address, location.href).pathname.replace(/\.html$/, "");
    const found = Object.keys(window.PAGE_TEXTS ?? {}).find((page) => name.endsWith("/" + page));
    if (!found) return fetchPage(address, ...more);
    const main = document.createElement("div");
    main.setAttribute("role", "main");
    main.textContent = window.PAGE_TEXTS[found];
    return Promise.resolve(new Response(main.outerHTML));
  };
  console.warn = () => {};          // the search says there of every match in a section that it takes the whole page
}
