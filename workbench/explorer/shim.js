{
  const data = JSON.parse(document.getElementById("explorer-data").textContent);
  const model = {
    get: (key) => (key === "data" ? data : undefined),
    set() {},
    save_changes() {},
    on() {},
    off() {},
    send() {},
  };
  render({ model, el: document.getElementById("explorer-root") });
}
