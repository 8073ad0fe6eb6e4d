// A page of a few lines that uses useChat as it comes. `?chat=` is its id, `?resume` resumes on mount, `?keep` begins
// with the messages that it had before a reload, as an app does that stores them.
import { createElement, useEffect } from "react";
import { createRoot } from "react-dom/client";
import { useChat } from "@ai-sdk/react";

const query = new URLSearchParams(location.search);
const kept = query.has("keep") ? JSON.parse(sessionStorage.getItem("messages") ?? "[]") : [];
window.data = [];
window.statuses = [];

function Page() {
  const chat = useChat({
    id: query.get("chat"),
    messages: kept,
    resume: query.has("resume"),
    onData: (part) => window.data.push(part),
  });
  window.chat = chat;
  useEffect(() => {
    if (window.statuses.at(-1) !== chat.status) window.statuses.push(chat.status);
    sessionStorage.setItem("messages", JSON.stringify(chat.messages));
  });
  return createElement("pre", null, `${chat.status} ${chat.error?.message ?? ""}\n${JSON.stringify(chat.messages, null, 2)}`);
}

createRoot(document.getElementById("root")).render(createElement(Page));
