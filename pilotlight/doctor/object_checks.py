"""Checks of what pods name: claims, storage classes, accounts, Secrets, classes, folders of nodes (pure)."""

from collections.abc import Iterator, Sequence

from pilotlight.compile_pod import CACHE_VOLUME
from pilotlight.doctor.cluster_facts import Claim, ClusterFacts
from pilotlight.doctor.findings import Finding, Level, Unknown, ok, unknown
from pilotlight.doctor.needs import StageNeeds, references

_SHARED_PROVISIONERS = {
    "efs.csi.aws.com": "EFS",
    "fsx.csi.aws.com": "FSx for Lustre",
    "fsx.openzfs.csi.aws.com": "FSx for OpenZFS",
    "filestore.csi.storage.gke.io": "Filestore",
    "file.csi.azure.com": "Azure Files",
    "nfs.csi.k8s.io": "NFS",
    "cephfs.csi.ceph.com": "CephFS",
    "rook-ceph.cephfs.csi.ceph.com": "CephFS",
    "lustre.csi.storage.gke.io": "Lustre",
    "azurelustre.csi.azure.com": "Azure Managed Lustre",
    "driver.longhorn.io": "Longhorn",
    "csi.juicefs.com": "JuiceFS",
}
"""Provisioners whose volumes can be ReadWriteMany."""
_MANY = "ReadWriteMany"
_READ_MANY = "ReadOnlyMany"


def claims(facts: ClusterFacts, needs: Sequence[StageNeeds]) -> Iterator[Finding]:
    """Whether the claims are there and can be used from every node."""
    users: dict[tuple[str, str], list[StageNeeds]] = {}
    for need in needs:
        for name in need.claims:
            users.setdefault((need.namespace, name), []).append(need)
    if facts.local:
        if users:
            yield ok(
                "storage", "one machine: a claim is a folder of the state folder, made when it is first used"
            )
        return
    for (namespace, name), mounting in users.items():
        yield _claim(facts, facts.claims.get((namespace, name)), namespace, name, mounting)
    if users and any(facts.claims.get(key) is None for key in users):
        yield from _classes(facts)


def _claim(
    facts: ClusterFacts,
    claim: Claim | Unknown | None,
    namespace: str,
    name: str,
    mounting: Sequence[StageNeeds],
) -> Finding:
    first = mounting[0]
    field = first.field("cache" if _is_cache(first, name) else "volumes")

    def problem(level: Level, text: str, fix: str) -> Finding:
        return Finding(level, "storage", f"claim {namespace}/{name} {text}", fix, field, first.agent)

    if isinstance(claim, Unknown):
        return unknown("storage", f"claim {namespace}/{name}", claim)
    if claim is None:
        return problem(
            Level.ERROR,
            "does not exist: its pods would stay Pending",
            f"create a PersistentVolumeClaim {name} in {namespace} with accessModes [{_MANY}]",
        )
    writes = any(need.claims[name] for need in mounting)
    usable = {_MANY} if writes else {_MANY, _READ_MANY}
    nodes = None if isinstance(facts.nodes, Unknown) else len(facts.nodes)
    pods = sum(need.most or 2 for need in mounting)
    if not usable & set(claim.access_modes) and pods > 1 and nodes != 1:
        modes = ", ".join(claim.access_modes) or "no access mode"
        used = ", ".join(need.service for need in mounting)
        return problem(
            Level.ERROR,
            f"is {modes}, and {used} may run on several nodes: a pod on a second one could not start",
            f"a claim that is {_MANY} (EFS, FSx, Filestore, NFS, or a PersistentVolume with hostPath)",
        )
    if claim.phase == "Lost":
        return problem(Level.ERROR, "has lost its volume (phase Lost)", "recreate it")
    waiting = " (not bound yet)" if claim.phase != "Bound" else ""
    return ok("storage", f"claim {namespace}/{name} is {', '.join(claim.access_modes)}{waiting}")


def _is_cache(need: StageNeeds, claim: str) -> bool:
    return any(
        volume["name"] == CACHE_VOLUME and volume["persistentVolumeClaim"]["claimName"] == claim
        for volume in need.spec.get("volumes") or ()
        if "persistentVolumeClaim" in volume
    )


def _classes(facts: ClusterFacts) -> Iterator[Finding]:
    if isinstance(facts.storage_classes, Unknown):
        yield unknown("storage", "storage classes", facts.storage_classes)
        return
    shared = [
        f"{found.name} ({_SHARED_PROVISIONERS[found.provisioner]})"
        for found in facts.storage_classes
        if found.provisioner in _SHARED_PROVISIONERS
    ]
    other = [found.name for found in facts.storage_classes if found.provisioner not in _SHARED_PROVISIONERS]
    if shared:
        yield ok("storage", f"storage classes for {_MANY}: {', '.join(shared)}")
    else:
        yield Finding(
            Level.WARNING,
            "storage",
            f"no storage class here is known to give {_MANY} (there: {', '.join(other) or 'none'})",
            "install the CSI driver of a shared file system, or a PersistentVolume with hostPath",
        )


def host_paths(facts: ClusterFacts, needs: Sequence[StageNeeds]) -> Iterator[Finding]:
    """Folders of nodes, which no API shows."""
    seen = set()
    for need in needs:
        for volume in need.spec.get("volumes") or ():
            path = (volume.get("hostPath") or {}).get("path")
            if path is None or path in seen:
                continue
            seen.add(path)
            where = "this machine" if facts.local else "every node that its pods may use"
            yield ok("storage", f"hostPath {path}: on {where}; Knative mounts it read-only")


def named_objects(facts: ClusterFacts, needs: Sequence[StageNeeds]) -> Iterator[Finding]:
    """Whether the accounts, Secrets, ConfigMaps and classes that pods name are there."""
    seen, there = set(), []
    for need in needs:
        for reference, field in references(need):
            if reference in seen:
                continue
            seen.add(reference)
            known = facts.references.get(reference)
            if known is False:
                yield Finding(
                    Level.ERROR,
                    "objects",
                    f"{reference} does not exist: the pods of {need.service} would not start",
                    f"create it, or correct {field[-1]}",
                    field,
                    need.agent,
                )
            elif isinstance(known, Unknown):
                yield unknown("objects", str(reference), known)
            elif known:
                there.append(str(reference))
    if there:
        yield ok("objects", f"there: {', '.join(there)}")


def access(facts: ClusterFacts, needs: Sequence[StageNeeds]) -> Iterator[Finding]:
    """Whether every stage says whose requests it answers, which a cluster requires."""
    without = [need for need in needs if not need.knows_callers]
    if without and not facts.local:
        yield Finding(
            Level.ERROR,
            "access",
            f"{', '.join(need.service for need in without)} would answer everyone, which has to be said",
            "auth: keys in spec (pilotlight key create NAME makes one), type jwt, or auth: none",
            ("spec", "auth"),
            without[0].agent,
        )
