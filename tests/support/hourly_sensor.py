"""A sensor that speaks once an hour, as the agent's source of examples."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from headwater_agent.data.config import TopicSource, parse_data
from headwater_agent.data.pool import Pool
from headwater_agent.data.problems import Problems
from headwater_agent.data.stream import SensorStream
from headwater_agent.machine.effects import Train
from headwater_agent.machine.inputs import Trained, TrainingFailed
from headwater_agent.training import LocalTraining
from headwater_firmware_sim.data.digits import load_digits
from headwater_models.dataset import Dataset

FIELDS = tuple(f"x{index}" for index in range(64))
TOPIC = "plant/pump"


class Readings:
    """What each device's sensor says at each hour: a handwritten digit, as JSON."""

    def __init__(self) -> None:
        self._digits = load_digits()

    def message(self, device: int, hour: int) -> bytes:
        features, label = self.example(device, hour)
        values = dict(zip(FIELDS, features.tolist(), strict=True))
        return json.dumps(values | {"label": label}).encode()

    def example(self, device: int, hour: int) -> tuple[np.ndarray, int]:
        place = (131 * device + hour) % len(self._digits.labels)
        return self._digits.features[place], int(self._digits.labels[place])


class HourlySensor:
    """The agent's source of sensor messages, which the caller brings instead of a broker."""

    is_stream = True

    def __init__(self, folder: Path, *, entropy: bytes) -> None:
        config = parse_data(
            {
                "source": "mqtt",
                "broker": "mqtt://127.0.0.1",
                "topic": TOPIC,
                "fields": list(FIELDS),
                "label": {"field": "label"},
            },
            folder=folder,
            max_bytes=1 << 20,
        )
        assert isinstance(config.source, TopicSource)
        problems = Problems()
        self.interval_ms = 1_000 * config.memory.persist_interval_s
        self.pool = Pool(config, entropy=entropy, problems=problems)
        self._stream = SensorStream(config.source, config.labels, problems)

    def open(self) -> None:
        """Nothing to connect to."""

    def close(self) -> None:
        """Nothing to end."""

    def hear(self, payload: bytes, now_ms: int) -> None:
        example = self._stream.receive(TOPIC, payload, is_retained=False, now_ms=now_ms)
        assert example is not None, self.pool.problems.latest
        self.pool.offer(*example)

    def dataset(self) -> Dataset:
        return self.pool.dataset(why_empty=self.pool.why_empty, copies=True)


class SharedTraining:
    """One interpreter and one thread for the fleet."""

    def __init__(self) -> None:
        self._source: HourlySensor | None = None
        self._training = LocalTraining(self)
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="training")

    def dataset(self) -> Dataset:
        assert self._source is not None
        return self._source.dataset()

    def run(self, source: HourlySensor, request: Train) -> Trained | TrainingFailed:
        self._source = source
        return self._training.run(request)
