"""`pilotlight init`: what it makes runs at once, and nothing is half-made."""

import json
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import aiohttp
import pytest
import yaml

from pilotlight.agent_reader import load_agent
from pilotlight.init.new_agent import InitError, new_agent, templates
from weights.teach_model import TeachingError, read_dialogues


@pytest.mark.parametrize("template", templates())
def test_what_is_made_passes_its_tests_and_its_file_is_an_agent(tmp_path, template):
    folder = tmp_path / "desk"
    files = new_agent(folder, template)
    assert {path.name for path in folder.iterdir()} == set(files)
    assert "AGENT_NAME" not in "".join(path.read_text() for path in folder.iterdir())
    # Outside of this project's own settings, as an author's would be.
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder), str(folder)],
        cwd=folder, capture_output=True, text=True, timeout=250, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    shutil.rmtree(folder / "__pycache__", ignore_errors=True)
    agent = load_agent(folder / "agent.yaml")
    assert agent.metadata.name == "desk"
    assert agent.modules_without_image == []


def test_nothing_is_half_made(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("mine")
    for name, template, said in (
        ("full", "agent", "holds something already"),
        ("file", "agent", "holds something already"),
        ("Desk", "agent", "NAME = 'Desk', must be of lower-case letters"),
        ("a" * 41, "agent", "at most 40"),
        ("desk", "nothing", "--template = 'nothing', must be one of agent, tool-agent"),
        ("file/desk", "agent", "cannot be made: "),
    ):
        with pytest.raises(InitError) as refused:
            new_agent(tmp_path / name, template)
        assert said in str(refused.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "full"]
    assert "agent.yaml" in new_agent(tmp_path / "empty", "agent")


def test_dialogues_that_cannot_be_taught_are_named(tmp_path):
    file = tmp_path / "d.jsonl"
    for text, said in (
        ("{", ":1: must be"),
        ('{"messages": [{"role": "user", "content": "x"}]}', ":1: must end with an answer"),
        ("", "has 0 dialogues"),
    ):
        file.write_text(text)
        with pytest.raises(TeachingError) as refused:
            read_dialogues(file)
        assert said in str(refused.value)


class Scripted(BaseHTTPRequestHandler):
    """A model that calls the calculator once, then says what it was told."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        last = asked["messages"][-1]
        self.server.offered.append([tool["function"]["name"] for tool in asked.get("tools", ())])
        call = {
            "index": 0, "id": "call-1", "type": "function",
            "function": {"name": "calculator", "arguments": '{"expression": "12 * 31"}'},
        }  # fmt: skip
        answered = last["role"] == "tool"
        delta = {"content": f"It is {last['content']}."} if answered else {"tool_calls": [call]}
        choice = {"index": 0, "delta": delta, "finish_reason": "stop" if answered else "tool_calls"}
        common = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "far"}
        usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
        chunks = [{**common, "choices": [choice]}, {**common, "choices": [], "usage": usage}]
        text = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
        self._answer("text/event-stream", text)

    def do_GET(self) -> None:
        self._answer("application/json", json.dumps({"data": [{"id": "far"}]}))

    def _answer(self, kind: str, text: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        """Silent."""


@contextmanager
def scripted_model():
    with ThreadingHTTPServer(("127.0.0.1", 0), Scripted) as server:
        server.offered = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.timeout(280)
async def test_what_is_made_answers_on_the_local_platform_through_its_stage_and_its_tool(cli, tmp_path):
    folder = tmp_path / "desk"
    new_agent(folder, "tool-agent")
    with scripted_model() as model:
        file = folder / "agent.yaml"
        content = yaml.safe_load(file.read_text())
        for stage in content["spec"]["stages"]:
            if stage["kind"] == "generate":  # only the model is another
                base_url = f"http://127.0.0.1:{model.server_address[1]}/v1"
                stage["engine"] = {"type": "openai", "args": {"base-url": base_url}}
                stage["model"] = {"name": "far"}
                stage["resources"] = {}
        file.write_text(yaml.safe_dump(content, sort_keys=False))
        running = cli.start(
            "up", "-f", str(file), "--port", "0", "--api-port", "0", "--state", str(cli.state)
        )  # fmt: skip
        running.until(lambda text: "curl -N" in text, timeout=200)
        url = next(word for word in running.output.split() if word.endswith("/orchestrate-desk/invoke"))
        asked = {"input": "  What is  12 * 31? "}
        async with aiohttp.ClientSession() as http, http.post(url, json=asked) as response:
            reply = await response.json()
        assert response.status == 200, reply
        assert reply["output"] == "It is 372."
        assert reply["data"]["assistant"]["calls"] == [{"tool": "calculator", "turn": 1, "error": False}]
        assert sorted(model.offered[0]) == ["calculator", "search"]
