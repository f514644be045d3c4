"""A follower's connection to the registry, kept between two looks, and what happens when the server has let it go."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from ml_core.errors import RegistryDownError
from ml_core.flow.read import ModelAddress, RestReader, open_registry
from ml_core.flow.registry import Registry
from tests.flow.conftest import ACCEPTED

VERSION = {"name": "f", "version": "3", "current_stage": "Production", "source": "mlflow-artifacts:/3", "tags": []}
ADDRESS = ModelAddress.parse("models:/f@champion")


@contextmanager
def hanging_up(answers_per_connection: list[int]) -> Iterator[tuple[str, list[int]]]:
    """Serve a version, and hang up without a word after so many answers; yield the address and what was asked."""
    body = json.dumps({"model_version": VERSION}).encode()
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)
    asked: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(20)

        def serve() -> None:
            for number, answers in enumerate(answers_per_connection):
                connection, _ = listening.accept()
                with connection:
                    for _ in range(answers):
                        connection.recv(65_536)
                        asked.append(number)
                        connection.sendall(answer)
                    if not answers:
                        connection.recv(65_536)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", asked
        thread.join(20)
        assert not thread.is_alive()


def test_a_connection_the_server_let_go_is_made_anew() -> None:
    """MLflow's server hangs up after five silent seconds: who polls less often would meet that at every look."""
    with hanging_up([1, 1, 2]) as (uri, asked):
        reader = RestReader(uri)
        assert [reader.resolve(ADDRESS).version for _ in range(4)] == [3] * 4
        reader.close()
    assert asked == [0, 1, 2, 2]


def test_a_server_that_hangs_up_on_a_new_connection_is_down() -> None:
    """Asking again and again would add to whatever is wrong with it."""
    with hanging_up([1, 0]) as (uri, _):
        reader = RestReader(uri)
        reader.resolve(ADDRESS)
        with pytest.raises(RegistryDownError):
            reader.resolve(ADDRESS)


class Moved(RestReader):
    """A registry whose person moved version 8 to Production, while the alias still names version 7."""

    def _json(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        del method, body
        version, stage = ("8", "Production") if "latest" in path else ("7", "Archived")
        found = VERSION | {"version": version, "current_stage": stage}
        return {"model_versions": [found]} if "latest" in path else {"model_version": found}


def test_a_stage_that_its_alias_does_not_name_is_doubted_once() -> None:
    """The first look may fall between a promotion's steps; an alias that goes on lagging must not come and go."""
    reader = Moved("http://nowhere.invalid")
    address = ModelAddress.parse("models:/f/Production")
    assert [reader.resolve(address, serving=7).version for _ in range(5)] == [7, 8, 8, 8, 8]
    assert reader.resolve(address, serving=8).version == 8


def test_a_reader_of_a_file_goes_on_where_the_version_it_serves_was_deleted(sqlite: str, publish: Any) -> None:
    """A follower that slept while retention went by would else never follow again."""
    registry = Registry(sqlite)
    for number in (1, 2):
        publish(registry, number, parent=number - 1 or None)
    registry.promote("shop", 1, verdict=ACCEPTED, expected_champion=None)
    registry.delete("shop", [registry.version("shop", 2)], why="retention")
    found = open_registry(sqlite).resolve(ModelAddress("shop", stage="Production"), serving=2)
    assert found.version == 1
