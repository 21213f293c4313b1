"""What the loopback Hub answers, one function a route (see `hub_server`)."""

from __future__ import annotations

import base64
import json
import re
import time
from urllib.parse import parse_qs, quote

from tests.hub_store import DATE, Refused, Stored

REPO = r"/api/models/(?P<repo>[^/]+/[^/]+)"
LFS = r"/lfs/(?P<repo>[^/]+/[^/]+)/(?P<oid>\w+)"
IN_PROGRESS = (
    "Another commit operation is in progress for this repository. "
    "Please try again later."
)
ROUTES = []


def route(method, pattern):
    def keep(function):
        ROUTES.append((method, re.compile(pattern), function))
        return function

    return keep


@route("GET", "/api/whoami-v2")
def whoami(self):
    if self.user is None:
        raise Refused(401, "", "Invalid username or password.")
    return {"type": "user", "name": self.user}


@route("POST", "/api/validate-yaml")
def validate_yaml(self):
    if "license: [" in self.json()["content"]:
        errors = [{"message": "license is not a string"}]
        return 400, {}, json.dumps({"errors": errors, "warnings": []}).encode()
    return {"errors": [], "warnings": []}


@route("POST", "/api/repos/create")
def create_repo(self):
    wanted = self.json()
    owner = wanted.get("organization") or self.user
    if self.user is None:
        raise Refused(401, "", "Invalid username or password.")
    if owner != self.user:
        raise Refused(403, "", "You don't have the rights to create a model here")
    name = f"{owner}/{wanted['name']}"
    told = {"url": f"{self.server.url}/{name}", "name": name}
    if name in self.server.store.repos:
        error = "You already created this model repo"
        return 409, {}, json.dumps({"error": error, **told}).encode()
    self.server.store.create(name, owner, wanted.get("visibility") == "private")
    return told


@route("DELETE", "/api/repos/delete")
def delete_repo(self):
    wanted = self.json()
    name = f"{wanted.get('organization') or self.user}/{wanted['name']}"
    self.repo(name, "write")
    self.server.store.delete(name)
    return {}


@route("GET", r"/api/users/(?P<name>[^/]+)/overview")
def overview(self, name):
    now = self.server.store.accounts.get(name)
    if now is not None:
        raise Refused(307, "", "", {"Location": f"/api/users/{now}/overview"})
    if name not in self.server.store.users.values():
        raise Refused(404, "", "This user does not exist")
    return {"user": name, "fullname": name.title(), "type": "user"}


@route("GET", REPO)
@route("GET", REPO + "/revision/(?P<revision>[^/]+)")
def info(self, repo, revision="main"):
    found = self.repo(repo)
    commit = found.seen(revision, self.server.lag)
    return {
        "id": repo,
        "sha": commit.oid,
        "private": found.private,
        "gated": "manual" if found.gated else False,
        "siblings": [
            {"rfilename": path, "size": len(file.content)}
            for path, file in commit.files.items()
        ],
    }


@route("GET", REPO + "/auth-check(?P<write>/write)?")
def auth_check(self, repo, write=""):
    self.repo(repo, "write" if write else "read")
    return {}


@route("GET", REPO + "/tree/(?P<revision>[^/]+)")
def tree(self, repo, revision):
    files = sorted(self.repo(repo).revision(revision).files.items())
    folders = {path.rsplit("/", 1)[0] for path, _ in files if "/" in path}
    listed = [{"type": "directory", "path": f, "oid": "0" * 40} for f in folders]
    listed += [file.describe(path) for path, file in files]
    return page(self, listed, self.server.entries_a_page)


def page(self, items, most):
    start = int(self.query.get("cursor", ["0"])[0])
    path = self.path.split("?")[0]
    more = f'<{self.server.url}{path}?cursor={start + most}>; rel="next"'
    headers = {"Link": more} if start + most < len(items) else {}
    return 200, headers, json.dumps(items[start : start + most]).encode()


@route("POST", REPO + "/paths-info/(?P<revision>[^/]+)")
def paths_info(self, repo, revision):
    found = self.repo(repo)
    wanted = parse_qs(self.body.decode())
    told = []
    for path in wanted.get("paths", []):
        file = found.revision(revision).files.get(path)
        if file is None:
            continue
        told.append(file.describe(path))
        if wanted.get("expand", [""])[0].lower() == "true":
            last = found.last_commit(path, revision)
            told[-1]["lastCommit"] = {"id": last.oid, "title": last.title, "date": DATE}
    return told


@route("GET", REPO + "/commits/(?P<revision>[^/]+)")
def commits(self, repo, revision):
    listed = [
        {
            "id": commit.oid,
            "title": commit.title,
            "message": commit.message,
            "authors": [{"user": a} if a else {} for a in commit.authors],
            "date": DATE,
        }
        for commit in self.repo(repo).history(revision)
    ]
    return page(self, listed, self.server.commits_a_page)


@route("POST", REPO + "/super-squash/(?P<branch>[^/]+)")
def super_squash(self, repo, branch):
    self.repo(repo, "write").squash(branch, self.user, self.json()["message"])
    return {}


@route("GET", REPO + "/refs")
def refs(self, repo):
    told = {"branches": [], "converts": [], "tags": [], "pullRequests": []}
    for name, oid in self.repo(repo).refs.items():
        kind = "pullRequests" if name.startswith("refs/pr/") else "branches"
        told[kind].append({"name": name, "ref": name, "targetCommit": oid})
    return told


@route("POST", REPO + "/branch/(?P<branch>[^/]+)")
def branch(self, repo, branch):
    found = self.repo(repo, "write")
    if branch in found.refs:
        raise Refused(409, "", "reference already exists")
    start = self.json().get("startingPoint", "main")
    found.put(branch, found.revision(start).oid)
    return {}


@route("POST", REPO + "/preupload/(?P<revision>[^/]+)")
def preupload(self, repo, revision):
    found = self.repo(repo, right_for(self, repo, revision))
    told, files = [], found.revision(revision).files
    for file in self.json()["files"]:
        path = file["path"]
        large = path.endswith(".safetensors") or file["size"] > 5_000_000
        told.append(
            {
                "path": path,
                "uploadMode": "lfs" if large else "regular",
                "shouldIgnore": found.ignored(revision, path),
                "oid": files[path].oid if path in files else None,
            }
        )
    return {"files": told}


@route("POST", r"/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch")
def lfs_batch(self, repo):
    found, wanted = self.repo(repo), self.json()
    if wanted.get("operation") == "upload" and self.user is None:
        raise Refused(401, "", "Invalid username or password.")
    objects = [_upload(self.server, found, item) for item in wanted["objects"]]
    return {"transfer": "basic", "objects": objects}


def _upload(server, repo, item):
    told, href = {**item}, f"{server.url}/lfs/{repo.name}/{item['oid']}"
    believed = server.believes_lfs and item["oid"] in server.store.forgotten
    if item["oid"] not in repo.lfs and not believed:
        upload = {"href": href}
        if server.part_bytes:
            parts = range(1, -(-item["size"] // server.part_bytes) + 1)
            urls = {str(n): f"{href}/part/{n}" for n in parts}
            header = {"chunk_size": str(server.part_bytes), **urls}
            upload = {"href": f"{href}/complete", "header": header}
        told["actions"] = {"upload": upload, "verify": {"href": f"{href}/verify"}}
    return told


@route("PUT", LFS + r"(/part/(?P<part>\d+))?")
def lfs_put(self, repo, oid, part=None):
    if part is None:
        return keep_lfs(self, repo, oid, self.body)
    self.server.store.parts[repo, oid, int(part)] = self.body
    return 200, {"ETag": f'"{part}"'}, b""


@route("POST", LFS + "/complete")
def lfs_complete(self, repo, oid):
    parts = sorted(part["partNumber"] for part in self.json()["parts"])
    whole = b"".join(self.server.store.parts.pop((repo, oid, n)) for n in parts)
    return keep_lfs(self, repo, oid, whole)


def keep_lfs(self, repo, oid, content):
    if Stored(content, True).sha256 != oid:
        raise Refused(400, "", "wrong content")
    self.server.store.repos[repo].lfs[oid] = content
    return {}


@route("POST", LFS + "/verify")
def lfs_verify(self, repo, oid):
    if len(self.server.store.repos[repo].lfs.get(oid, b"")) != self.json()["size"]:
        raise Refused(404, "", "not uploaded")
    return {}


def right_for(self, repo, revision):
    """What a commit to a revision needs: proposing needs an account only."""
    if self.user is None:
        return "write"
    if "create_pr" in self.query:
        return "read"
    match = re.fullmatch(r"refs/pr/(\d+)", revision)
    pulls = self.repo(repo).pulls
    mine = match and pulls.get(int(match[1])) and pulls[int(match[1])].author
    return "read" if mine == self.user else "write"


@route("POST", REPO + "/commit/(?P<revision>[^/]+)")
def commit(self, repo, revision):
    found = self.repo(repo, right_for(self, repo, revision))
    if not found.busy.acquire(blocking=not self.server.commit_seconds):
        raise Refused(409, "", IN_PROGRESS)
    try:
        time.sleep(self.server.commit_seconds)
        return committed(self, repo, found, revision)
    finally:
        found.busy.release()


def committed(self, repo, found, revision):
    lines = [json.loads(line) for line in self.body.splitlines()]
    header, changes = lines[0]["value"], {}
    for line in lines[1:]:
        value, path = line["value"], line["value"]["path"]
        if line["key"] == "file":
            changes[path] = Stored(base64.b64decode(value["content"]), False)
        elif line["key"] == "lfsFile":
            if value["oid"] not in found.lfs:
                raise Refused(
                    400, "", "LFS pointer pointed to a file that does not exist"
                )
            changes[path] = Stored(found.lfs[value["oid"]], True)
        else:
            changes[path] = None
    title, told = header["summary"], {}
    if "create_pr" in self.query:
        number, oid = found.propose(self.user, title, revision, changes)
        told = {"pullRequestUrl": f"{self.server.url}/{repo}/discussions/{number}"}
    else:
        text, parent = header.get("description", ""), header.get("parentCommit")
        oid = found.commit(revision, self.user, title, text, changes, parent)
    url = f"{self.server.url}/{repo}/commit/{oid}"
    return {"success": True, "commitOid": oid, "commitUrl": url, **told}


@route("GET", "/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
def resolve(self, repo, revision, path):
    found = self.repo(repo)
    if found.gated and self.user not in {found.owner, *found.rights}:
        raise Refused(403, "GatedRepo", f"Access to model {repo} is restricted")
    commit = found.revision(revision)
    if path not in commit.files:
        raise Refused(404, "EntryNotFound", "Entry not found")
    file = commit.files[path]
    headers = {"ETag": f'"{file.oid}"', "X-Repo-Commit": commit.oid}
    headers["Content-Type"] = "application/octet-stream"
    if file.lfs and self.server.downloads is not None:
        to = f"{self.server.downloads.url}/cdn/{repo}/{commit.oid}/{path}"
        return 302, {**headers, "Location": quote(to, safe=":/")}, b""
    wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
    if wanted:
        end = int(wanted[2]) + 1 if wanted[2] else len(file.content)
        return 206, headers, file.content[int(wanted[1]) : end]
    return 200, headers, file.content


@route("GET", r"/cdn/(?P<repo>[^/]+/[^/]+)/(?P<oid>\w+)/(?P<path>.+)")
def cdn(self, repo, oid, path):
    """Another host, with an address that is signed: two ways to log in are refused."""
    if "Authorization" in self.headers:
        raise Refused(400, "", "Only one auth mechanism allowed")
    return 200, {}, self.server.store.repos[repo].commits[oid].files[path].content


@route("GET", REPO + "/discussions")
def discussions(self, repo):
    status = self.query.get("status", [None])[0]
    told = [
        described(repo, pull)
        for pull in self.repo(repo).pulls.values()
        if status in (None, pull.status)
    ]
    return {"count": len(told), "start": 0, "discussions": told}


def described(repo, pull):
    return {
        "title": pull.title,
        "num": pull.number,
        "author": {"name": pull.author},
        "createdAt": DATE,
        "status": pull.status,
        "isPullRequest": True,
        "repo": {"name": repo, "type": "model"},
    }


@route("POST", REPO + "/discussions")
def create_discussion(self, repo):
    if self.user is None:
        raise Refused(401, "", "Invalid username or password.")
    return {"num": self.repo(repo).draft(self.user, self.json()["title"]).number}


@route("GET", REPO + r"/discussions/(?P<number>\d+)")
def discussion(self, repo, number):
    told = described(repo, self.repo(repo).pull(int(number)))
    changes = {"base": "refs/heads/main"}
    return {**told, "events": [], "filesWithConflicts": [], "changes": changes}


@route("POST", REPO + r"/discussions/(?P<number>\d+)/merge")
def merge(self, repo, number):
    self.repo(repo, "write").merge(int(number), self.user)
    return {}


@route("POST", REPO + r"/discussions/(?P<number>\d+)/status")
def change_status(self, repo, number):
    wanted = self.json()
    mine = self.repo(repo).pull(int(number)).author == self.user is not None
    found = self.repo(repo, "read" if mine else "write")
    found.change(int(number), wanted["status"], wanted.get("comment", ""))
    event = {"id": "0", "type": "status-change", "createdAt": DATE}
    return {"newStatus": {**event, "data": {"status": wanted["status"]}}}
