// What a page tells the server that `tledge` starts for it; other servers have no ear for it.

export async function tell(message) {
  await fetch("told", { method: "POST", body: JSON.stringify(message) });
}

// A connection that stays open: when the page dies, the browser closes it.
export function stayInTouch() {
  fetch("alive").catch(() => {});
}
