# SPDX-License-Identifier: Apache-2.0
"""Stands for the package dllogger 1.1: its interface and its bytes, flaws included."""

import json
from datetime import datetime
from pathlib import Path


class Verbosity:
    OFF, DEFAULT, VERBOSE = -1, 0, 1


class Logger:
    def __init__(self, backends):
        self.backends = backends
        self.starttime = datetime.now()

    def log(self, step, data, verbosity=Verbosity.VERBOSE):
        now = datetime.now()
        for backend in self.backends:
            if backend.verbosity >= verbosity:
                backend.log(now, (now - self.starttime).total_seconds(), step, data)

    def metadata(self, metric, metadata):
        now = datetime.now()
        for backend in self.backends:
            backend.metadata(now, (now - self.starttime).total_seconds(), metric, metadata)

    def flush(self):
        for backend in self.backends:
            backend.flush()


class StdOutBackend:
    def __init__(self, verbosity):
        self.verbosity = verbosity
        self.units, self.formats = {}, {}

    def log(self, timestamp, elapsedtime, step, data):
        items = []
        for metric, value in data.items():
            if value is not None and metric in self.formats:
                value = format(value, self.formats[metric].lstrip(":"))
            items.append(f"{metric} : {value} {self.units.get(metric, '')}")
        print("DLL", timestamp, "-", step, " ".join(items))

    def metadata(self, timestamp, elapsedtime, metric, metadata):
        if "unit" in metadata:
            self.units[metric] = metadata["unit"]
        if "format" in metadata:
            self.formats[metric] = metadata["format"]

    def flush(self):
        pass


class JSONStreamBackend:
    def __init__(self, verbosity, filename, append=False):
        self.verbosity = verbosity
        self.file = Path(filename).open("a" if append else "w")  # noqa: SIM115

    def metadata(self, timestamp, elapsedtime, metric, metadata):
        self.write(
            [("timestamp", str(timestamp.timestamp())), ("elapsedtime", str(elapsedtime)),
             ("datetime", str(timestamp.astimezone())), ("type", "METADATA"),
             ("metric", metric), ("metadata", metadata)]
        )  # fmt: skip

    def log(self, timestamp, elapsedtime, step, data):
        self.write(
            [("timestamp", str(timestamp.timestamp())), ("datetime", str(timestamp.astimezone())),
             ("elapsedtime", str(elapsedtime)), ("type", "LOG"), ("step", step), ("data", data)]
        )  # fmt: skip

    def write(self, pairs):
        self.file.write("DLLL " + json.dumps(dict(pairs)) + "\n")

    def flush(self):
        self.file.flush()
