"""Images of a Docker Engine: find, list, pull, import, save, load, build, discard."""

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress

import docker.errors
import requests

from orchestrator.errors import EngineFailed
from orchestrator.hosts.docker import api
from orchestrator.hosts.docker.client import TIMEOUT_S, Clients, translated

_PIECE = 1 << 20
"""Bytes of a saved image in one read."""


class DockerImages:
    """``hosts.Images`` for a Docker Engine."""

    def __init__(self, clients: Clients) -> None:
        self._clients = clients

    def find(self, tag: str) -> Mapping[str, str] | None:
        with translated(f"image {tag}"):
            try:
                facts = self._clients.here.inspect_image(tag)
            except docker.errors.NotFound:
                return None
            return {**((facts.get("Config") or {}).get("Labels") or {}), "id": facts["Id"]}

    def list(self, label: str) -> Sequence[tuple[str, Mapping[str, str]]]:
        with translated("the list of images"):
            images = self._clients.here.images(filters={"label": label})
            return [image for facts in images for image in api.found_image(facts)]

    def pull(self, tag: str) -> None:
        with translated(f"image {tag} from its registry"):
            for part in self._clients.here.pull(tag, stream=True, decode=True):
                if reason := api.refusal(part):
                    raise EngineFailed(f"image {tag} from its registry", reason, "check that the registry has it")
            if self.find(tag) is None:
                raise EngineFailed(f"image {tag} from its registry", "no such image after the pull", "try again")

    def load_root(self, tarball: str, tag: str) -> None:
        repository, _, release = tag.partition(":")
        with translated(f"image {tag} from a root file system"):
            printed = self._clients.here.import_image_from_file(tarball, repository=repository, tag=release)
            reason = next((r for line in printed.splitlines() if (r := api.refusal(json.loads(line)))), None)
            if reason or self.find(tag) is None:
                refused = f"the engine refused the root file system: {reason or printed[-300:]}"
                raise EngineFailed(f"image {tag}", refused, "read the engine's log")

    def save(self, tags: Sequence[str]) -> Iterator[bytes]:
        client = self._clients.here
        with translated(f"the images {', '.join(tags)}"):
            url = f"{client.base_url}/v{client.api_version}/images/get"
            with client.get(url, params={"names": list(tags)}, stream=True, timeout=(TIMEOUT_S, None)) as response:
                try:
                    response.raise_for_status()
                except requests.HTTPError as error:
                    raise docker.errors.create_api_error_from_http_exception(error) from error
                yield from response.iter_content(_PIECE)

    def load(self, tar: Iterable[bytes]) -> None:
        with translated("images from a file"):
            for part in self._clients.here.load_image(tar):
                if reason := api.refusal(part):
                    raise EngineFailed("images from a file", f"the engine refused it: {reason}", "save them again")

    def build(self, context: bytes, tag: str, args: Mapping[str, str], labels: Mapping[str, str]) -> Iterator[str]:
        with translated(f"image {tag}"):
            progress = self._clients.here.build(
                fileobj=io.BytesIO(context),
                custom_context=True,
                tag=tag,
                buildargs=dict(args),
                labels=dict(labels),
                rm=True,
                forcerm=True,
                decode=True,
            )
            for part in progress:
                if reason := api.refusal(part):
                    raise EngineFailed(f"image {tag} built", reason, "read the build's output")
                yield from (part.get("stream") or "").splitlines()

    def discard(self, image: str) -> None:
        with translated(f"image {image} removed"), suppress(docker.errors.NotFound):
            if self._clients.here.inspect_image(image).get("RepoTags"):
                return
            try:
                self._clients.here.remove_image(image)
            except docker.errors.APIError as error:
                if error.status_code != requests.codes.conflict:
                    raise
