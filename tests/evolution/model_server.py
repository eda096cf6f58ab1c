"""An OpenAI-compatible server on loopback that checks the key and answers with real edits."""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "sk-the-right-key"
# The seed's line that every answer edits; an edited line still begins with it.
LINE = "    weight = weight.float().cpu()"


class ModelServer:
    """Serves until the ``with`` block ends. ``prompts`` has every request's text."""

    def __init__(self) -> None:
        self.prompts: list[str] = []
        self.refused = 0
        self.silent = threading.Event()
        # Said instead of an edit, and thought before saying nothing.
        self.says: str | None = None
        self.thinks: str | None = None
        # That every answer counts as.
        self.tokens = 10
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if server.silent.is_set():
                    self.close_connection = True
                    return
                if self.headers["Authorization"] != f"Bearer {KEY}":
                    server.refused += 1
                    self.reply(401, {"error": {"message": "Incorrect API key provided"}})
                    return
                messages = [message["content"] for message in body["messages"]]
                server.prompts.append("\n".join(messages))
                said = answer(messages[0], messages[-1])
                if server.says is not None and messages[-1] != "Reply with OK.":
                    said = server.says
                self.reply(200, completion(said, server.thinks, server.tokens))

            def reply(self, status: int, content: dict) -> None:
                data = json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}/v1"

    @property
    def model(self) -> str:
        return f"local/editor@{self.url}"

    def __enter__(self) -> ModelServer:
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._http.shutdown()
        self._http.server_close()


def completion(content: str, thought: str | None, tokens: int) -> dict:
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "editor",
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {
                    "role": "assistant",
                    "content": content if thought is None else "",
                    "reasoning_content": thought,
                },
            }
        ],
        "usage": {"prompt_tokens": 0, "completion_tokens": tokens, "total_tokens": tokens},
    }


def answer(system: str, user: str) -> str:
    """Multiply the weights by one, in the form that the system text asks for."""
    header = "<NAME>\ntimes_one\n</NAME>\n<DESCRIPTION>\nMultiply by one.\n</DESCRIPTION>\n"
    if "exact SEARCH/REPLACE diff format" in system:
        edit = f"<<<<<<< SEARCH\n{LINE}\n=======\n{LINE} * 1.0\n>>>>>>> REPLACE\n"
        return f"{header}<DIFF>\n{edit}</DIFF>\n"
    programs = re.findall(r"```python\n(.*?)```", user, re.DOTALL)
    current = user.rfind("# Current program")
    programs = re.findall(r"```python\n(.*?)```", user[max(current, 0) :], re.DOTALL) or programs
    if not programs:
        return "OK"
    code = programs[0].replace(LINE, f"{LINE} * 1.0", 1)
    return f"{header}<CODE>\n```python\n{code}```\n</CODE>\n"
