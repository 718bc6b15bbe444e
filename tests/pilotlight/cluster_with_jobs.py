"""A Kubernetes API on a real port with Nodes, and with Jobs whose containers run as processes of this machine.

The objects and logs are real, and so is the command; scheduling is not. What stands for a node's folder or a
claim is a folder of the test.
"""

import asyncio
import contextlib
import os
import sys
from pathlib import Path

from starlette.responses import JSONResponse

from knative.client.resources import CRON_JOB, JOB, NODE, PERSISTENT_VOLUME, PERSISTENT_VOLUME_CLAIM, POD
from knative.local.apiserver.kind_info import KindInfo
from knative.local.apiserver.records import Key
from knative.local.apiserver.schemas.core_kinds import POD_SCHEMA
from tests.warmpool.conftest import KINDS, ApiServer

JOB_LABEL = "batch.kubernetes.io/job-name"
WITH_JOBS = {
    **KINDS,
    JOB: KindInfo(JOB, "job", POD_SCHEMA, custom=False),
    CRON_JOB: KindInfo(CRON_JOB, "cronjob", POD_SCHEMA, custom=False),
    NODE: KindInfo(NODE, "node", POD_SCHEMA, custom=False),
    PERSISTENT_VOLUME: KindInfo(PERSISTENT_VOLUME, "persistentvolume", POD_SCHEMA, custom=False),
    PERSISTENT_VOLUME_CLAIM: KindInfo(
        PERSISTENT_VOLUME_CLAIM, "persistentvolumeclaim", POD_SCHEMA, custom=False
    ),
}


def _with_version(api, version: str):
    """The application, with the version of a cluster: the local platform says that it is one."""

    async def answer(scope, receive, send):
        if scope["type"] == "http" and scope["path"] == "/version":
            await JSONResponse({"gitVersion": version})(scope, receive, send)
        else:
            await api(scope, receive, send)

    return answer


class ClusterWithJobs(ApiServer):
    """Runs each new Job once: one pod, one process."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        super().__init__(folder, WITH_JOBS)
        self.server.config.app = _with_version(self.server.config.app, "v1.34.0")
        self.folder = folder
        self.environment = environment
        self.taking = True
        """False: no node takes a pod."""
        self.runs: list[str] = []
        """The Jobs that were run, by name."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._worker = asyncio.create_task(self._work())

    def node(self, name: str, labels: dict[str, str] | None = None, taints: list[dict] | None = None) -> None:
        meta = {"name": name, "labels": labels or {}}
        self.registry.create(
            NODE,
            "",
            {"apiVersion": "v1", "kind": "Node", "metadata": meta, "spec": {"taints": taints or []}},
        )

    def claim(self, name: str, source: str) -> None:
        """A claim in the default namespace, bound to a volume of its own."""
        for resource, namespace, spec in (
            (PERSISTENT_VOLUME, "", {source: {}}),
            (PERSISTENT_VOLUME_CLAIM, "default", {"volumeName": name}),
        ):
            kind = {"apiVersion": "v1", "kind": resource.kind}
            self.registry.create(resource, namespace, {**kind, "metadata": {"name": name}, "spec": spec})

    def cache_of(self, job: dict) -> Path:
        """The folder behind the volume of a Job's pod."""
        pod = job["spec"]["template"]["spec"]
        (volume,) = [item for item in pod["volumes"] if item["name"] == "pilotlight-cache"]
        if "affinity" not in pod:
            return self.folder / "claims" / volume["persistentVolumeClaim"]["claimName"]
        terms = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        (node,) = terms["nodeSelectorTerms"][0]["matchFields"][0]["values"]
        return self.folder / "nodes" / node

    async def stop(self) -> None:
        for task in (self._worker, *self._tasks):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await super().stop()

    async def _work(self) -> None:
        seen: set[str] = set()
        while True:
            for record in list(self.store.list(JOB)):
                uid = record.obj["metadata"]["uid"]
                if uid not in seen:
                    seen.add(uid)
                    self._tasks.add(asyncio.create_task(self._run(record.key, record.obj)))
            await asyncio.sleep(0.02)

    async def _run(self, key: Key, job: dict) -> None:
        template = job["spec"]["template"]
        (container,) = template["spec"]["containers"]
        pod = Key(POD, key.namespace, f"{key.name}-{job['metadata']['uid'][:5]}")
        meta = {"name": pod.name, "labels": {**template["metadata"]["labels"], JOB_LABEL: key.name}}
        spec = dict(template["spec"])
        if self.taking:
            spec["nodeName"] = "node-1"
        self.registry.create(
            POD, key.namespace, {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}
        )
        if not self.taking:
            waits = {"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}
            self.registry.set_status(pod, {"phase": "Pending", "conditions": [waits]})
            return
        self.runs.append(key.name)
        cache = self.cache_of(job)
        cache.mkdir(parents=True, exist_ok=True)
        env = {item["name"]: item["value"] for item in container["env"]}
        programs = {
            "python": [sys.executable],
            "pilotlight": [str(Path(sys.executable).with_name("pilotlight"))],
        }
        program, *arguments = container["command"]
        with (self.folder / f"{pod.namespace}-{pod.name}.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *programs[program], *arguments,
                env={"PATH": os.environ["PATH"], **self.environment, **env, "PILOTLIGHT_CACHE_DIR": str(cache)},
                stdout=log, stderr=log,
            )  # fmt: skip
        name = container["name"]
        self._status(pod, name, {"running": {}})
        try:
            code = await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        self._status(pod, name, {"terminated": {"exitCode": code}})
        kind, reason = ("Complete", "") if code == 0 else ("Failed", "BackoffLimitExceeded")
        if self.store.get(key) is not None:
            self.registry.set_status(
                key, {"conditions": [{"type": kind, "status": "True", "reason": reason, "message": ""}]}
            )

    def _status(self, pod: Key, container: str, state: dict) -> None:
        self.registry.set_status(pod, {"containerStatuses": [{"name": container, "state": state}]})
