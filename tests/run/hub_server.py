"""A small Hugging Face Hub in a thread: the few requests that uploading, and downloading, a model makes."""

import base64
import hashlib
import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_" + "s" * 34
READ_ONLY = "hf_" + "r" * 34


class Hub:
    """Attributes: ``repos`` name -> {"private", "files" name -> bytes, "commits"}; ``requests`` that were made."""

    def __init__(self):
        self.repos, self.requests, self.url = {}, [], ""

    def sha(self, name):
        return hashlib.sha1(str(self.repos[name]["commits"]).encode()).hexdigest()

    def commit(self, name, lines):
        repo = self.repos[name]
        for entry in lines:
            value = entry["value"]
            if entry["key"] == "file":
                assert value["encoding"] == "base64"
                repo["files"][value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "deletedFile":
                del repo["files"][value["path"]]
        repo["commits"] += 1
        sha = self.sha(name)
        return {"success": True, "commitOid": sha, "commitUrl": f"{self.url}/{name}/commit/{sha}", "hookOutput": ""}

    def info(self, name):
        repo = self.repos[name]
        siblings = [{"rfilename": file} for file in repo["files"]]
        return {"id": name, "modelId": name, "sha": self.sha(name), "private": repo["private"], "siblings": siblings,
                "tags": [], "downloads": 0, "likes": 0}  # fmt: skip


def _handler(hub):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args):
            pass

        def answer(self, status, body=b"", **headers):
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for key, value in {"Content-Length": str(len(data)), **headers}.items():
                self.send_header(key.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def refused(self, write):
            token = self.headers.get("authorization", "").removeprefix("Bearer ")
            if token == TOKEN or (token == READ_ONLY and not write):
                return False
            status = 403 if token == READ_ONLY else 401
            words = "You don't have the rights" if status == 403 else "Invalid username or password."
            self.answer(status, {"error": words}, X_Error_Message=words)
            return True

        def do_POST(self):
            data = self.rfile.read(int(self.headers.get("content-length", 0)))
            hub.requests.append(("POST", self.path))
            if self.refused(write=True):
                return None
            if self.path == "/api/repos/create":
                made = json.loads(data)
                name = f"{made['organization']}/{made['name']}"
                if name in hub.repos:
                    return self.answer(409, {"error": "exists", "url": f"{hub.url}/{name}"})
                private = bool(made.get("private")) or made.get("visibility") == "private"
                hub.repos[name] = {"private": private, "files": {}, "commits": 0}
                return self.answer(200, {"url": f"{hub.url}/{name}", "id": name})
            if self.path == "/api/validate-yaml":
                return self.answer(200, {"errors": [], "warnings": []})
            if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/[^/?]+.*", self.path):
                files = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in
                         json.loads(data)["files"]]  # fmt: skip
                return self.answer(200, {"files": files, "commitOid": hub.sha(found[1])})
            if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/[^/?]+.*", self.path):
                return self.answer(200, hub.commit(found[1], [json.loads(line) for line in data.splitlines()]))
            return self.answer(404, {"error": f"no such request {self.path}"})

        def do_GET(self):
            hub.requests.append((self.command, self.path))
            if self.refused(write=False):
                return None
            if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/[^?]+.*", self.path):
                files = hub.repos[found[1]]["files"]
                rows = [{"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()} for
                        name, data in files.items()]  # fmt: skip
                return self.answer(200, rows)
            if (found := re.fullmatch(r"/api/models/([^/]+/[^/?]+)(/revision/[^?]+)?(\?.*)?", self.path)) and (
                found[1] in hub.repos
            ):
                return self.answer(200, hub.info(found[1]))
            found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", self.path)
            if found and found[2] in hub.repos.get(found[1], {"files": {}})["files"]:
                data = hub.repos[found[1]]["files"][found[2]]
                return self.answer(
                    200, data, ETag=f'"{hashlib.sha1(data).hexdigest()}"', X_Repo_Commit=hub.sha(found[1])
                )
            return self.answer(404, {"error": "Repository not found"}, X_Error_Code="RepoNotFound")

        do_HEAD = do_GET

    return Handler


@contextmanager
def serve():
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
