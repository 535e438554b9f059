"""Google Cloud services on loopback: buckets, accounts, permissions, images."""

from dataclasses import dataclass, field

from tests.servers.http_server import serve_target


class Anything:
    """Contains everything."""

    def __contains__(self, _):
        return True

    def __rand__(self, others):
        return others


ANY_RIGHT = ANY_IMAGE = Anything()


@dataclass
class GoogleServer:
    """The resources of a project.

    Attributes:
        objects: Object names by bucket.
        locations: Location by bucket.
        bindings: Members by role, by bucket.
        rights: Permissions of the user in the project.
        accounts: Service accounts, and whether the user may act as them.
        images: ``path:tag`` or ``path@digest``.
        enabled: Whether the Vertex AI API is enabled.
        closed: Path prefixes of requests that return 403.
    """

    objects: dict = field(default_factory=dict)
    locations: dict = field(default_factory=dict)
    bindings: dict = field(default_factory=dict)
    rights: set = field(default_factory=set)
    accounts: dict = field(default_factory=dict)
    images: set = field(default_factory=set)
    enabled: bool = True
    closed: tuple = ()
    address: str = ""

    def handle(self, _method, path, query, body):
        if self.closed and path.startswith(self.closed):
            return 403, {"error": {"message": "forbidden"}}
        parts = path.strip("/").split("/")
        if path.startswith("/storage/v1/b/"):
            return self._storage(parts, query)
        if path.startswith("/v2/"):
            *_, name, _, reference = parts
            repository = "/".join(parts[1:-2])
            known = {f"{repository}:{reference}", f"{repository}@{reference}"}
            return (200 if known & self.images else 404), {"name": name}
        if "/services/" in path:
            return 200, {"state": "ENABLED" if self.enabled else "DISABLED"}
        if "/serviceAccounts/" in path:
            account = parts[-1].removesuffix(":testIamPermissions")
            if account not in self.accounts:
                return 404, {}
            return 200, {"permissions": body["permissions"] if self.accounts[account] else []}
        if path.endswith(":testIamPermissions"):
            return 200, {"permissions": [name for name in body["permissions"] if name in self.rights]}
        if path.startswith("/v1/projects/"):
            return 200, {"projectNumber": "123"}
        return 404, {}

    def _storage(self, parts, query):
        bucket = parts[3]
        if bucket not in self.objects:
            return 404, {"error": {"message": "The specified bucket does not exist."}}
        if len(parts) == 4:
            return 200, {"name": bucket, "location": self.locations.get(bucket, "US-CENTRAL1")}
        if parts[4] == "iam":
            members = self.bindings.get(bucket, {})
            return 200, {"bindings": [{"role": role, "members": names} for role, names in members.items()]}
        items = [
            {"name": name, "size": "1", "generation": "1", "crc32c": "AAAAAA==", "bucket": bucket}
            for name in sorted(self.objects[bucket])
        ]
        if len(parts) == 5:
            prefix = query.get("prefix", "")
            return 200, {"items": [item for item in items if item["name"].startswith(prefix)]}
        found = [item for item in items if item["name"] == "/".join(parts[5:])]
        return (200, found[0]) if found else (404, {"error": {"message": "No such object"}})


def start_google_server():
    """Serves a project without resources."""
    return serve_target(GoogleServer())
