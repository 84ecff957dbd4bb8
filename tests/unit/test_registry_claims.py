import random
import threading

import pytest

from rayft.errors import StorageError
from rayft.registry.claims import agree


class Killed(BaseException):
    """Ends a writer the way a kill does: nothing of it runs afterwards."""


class Turns:
    """Lets one of several threads go on at a time, in an order that a seed decides."""

    def __init__(self, seed: int, kill_probability: float) -> None:
        self._random = random.Random(seed)
        self._kill_probability = kill_probability
        self._condition = threading.Condition()
        self._waiting: list[int] = []
        self._running: int | None = None
        self._alive: set[int] = set()

    def run(self, functions) -> list:
        results = [None] * len(functions)
        self._alive = set(range(len(functions)))

        def body(index):
            try:
                results[index] = functions[index](lambda: self._wait(index))
            except Killed:
                results[index] = "killed"
            with self._condition:
                self._alive.discard(index)
                self._choose()

        threads = [threading.Thread(target=body, args=(index,)) for index in range(len(functions))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        return results

    def _wait(self, index):
        with self._condition:
            self._waiting.append(index)
            self._choose()
            self._condition.wait_for(lambda: self._running == index)
            self._running = None
            if self._random.random() < self._kill_probability:
                raise Killed

    def _choose(self):
        # Only when all are waiting, so that the seed alone decides.
        if self._running is None and self._waiting and set(self._waiting) == self._alive:
            self._running = self._random.choice(sorted(self._waiting))
            self._waiting.remove(self._running)
            self._condition.notify_all()


class Memory:
    """A store in which every request takes a turn."""

    def __init__(self) -> None:
        self.claims: dict[str, bytes] = {}
        self.decided: list[bytes] = []


class Client:
    def __init__(self, memory, turn) -> None:
        self.memory, self.turn = memory, turn

    def put(self, name, content):
        # A killed writer may leave a part.
        self.memory.claims[name] = content[: len(content) // 2]
        self.turn()
        self.memory.claims[name] = content

    def list(self):
        self.turn()
        return list(self.memory.claims)

    def read(self, name):
        self.turn()
        return self.memory.claims.get(name, b"")

    def decision(self):
        self.turn()
        return self.memory.decided[-1] if self.memory.decided else None

    def decide(self, value):
        self.turn()
        self.memory.decided.append(value)

    def remove_claims(self):
        for name in list(self.memory.claims):
            self.turn()
            self.memory.claims.pop(name, None)


def _propose(memory, value):
    def body(turn):
        client = Client(memory, turn)
        decided = agree(client, value, pause=lambda seconds: None)
        client.remove_claims()
        return decided

    return body


@pytest.mark.parametrize("kill_probability", [0.0, 0.05], ids=["all live", "some are killed"])
def test_writers_agree_in_every_order_of_their_requests(kill_probability):
    for seed in range(150):
        memory = Memory()
        values = [f"value {index}".encode() for index in range(3)]
        results = Turns(seed, kill_probability).run([_propose(memory, value) for value in values])
        assert None not in results, seed
        finished = {result for result in results if result != "killed"}
        assert len({*finished, *memory.decided}) <= 1, seed
        assert finished <= set(values), seed
        # Whoever comes later learns the same.
        late = agree(Client(memory, lambda: None), b"late")
        assert memory.decided == [] or late == memory.decided[0], seed
        assert finished == set() or {late} == finished, seed


def test_a_writer_alone_gets_its_own_value():
    memory = Memory()
    assert agree(Client(memory, lambda: None), b"mine") == b"mine"
    assert agree(Client(memory, lambda: None), b"other") == b"mine"


def test_a_decision_that_was_accepted_but_not_written_down_is_finished_by_the_next_writer():
    memory = Memory()

    class Dying(Client):
        def decide(self, value):
            raise Killed

    with pytest.raises(Killed):
        agree(Dying(memory, lambda: None), b"first")
    assert agree(Client(memory, lambda: None), b"second") == b"first"


def test_endless_contention_ends_in_an_error():
    memory = Memory()

    class Overtaken(Client):
        def list(self):
            return ["99999999-z.promise"]

    with pytest.raises(StorageError, match="200 attempts"):
        agree(Overtaken(memory, lambda: None), b"mine", pause=lambda seconds: None)
