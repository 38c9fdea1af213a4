"""`caduceus sandbox`, as a process of its own."""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tomllib
import urllib.error
import urllib.request

import pytest

from proxy.commands import sandbox as command
from proxy.config import EndpointSettings, Settings
from proxy.errors import CommandError

PROGRAM = """
import argparse, sys
from proxy.commands import sandbox
from proxy.config import Settings
common = argparse.ArgumentParser(add_help=False)
common.add_argument("--json", action="store_true")
parser = argparse.ArgumentParser()
sandbox.add_to(parser.add_subparsers(), common)
args = parser.parse_args()
sys.exit(args.run(args, Settings()))
"""


class Running:
    """The command until it is interrupted; `first` is what it prints until `last_line` came."""

    def __init__(self, *options, last_line, **environment):
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, "sandbox", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | environment,
        )
        self.first = ""
        for line in self.process.stdout:
            self.first += line
            if line.startswith(last_line):
                break

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.communicate()

    def interrupt(self):
        self.process.send_signal(signal.SIGINT)
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors


def ask(base_url, key=None):
    body = {"model": "Hermes-4-405B", "messages": [{"role": "user", "content": "Hello"}]}
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
    request = urllib.request.Request(f"{base_url}/chat/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)["choices"][0]


def test_it_prints_an_endpoint_to_paste_and_serves_until_ctrl_c():
    options = ("--dialect", "nebius", "--first-token-ms", "1", "--interval-ms", "0", "--tokens", "3")
    with Running(*options, "--api-key-env", "SANDBOX_KEY", last_line="price", SANDBOX_KEY="sk-1") as running:
        assert re.match(r"The sandbox speaks as nebius at http://127\.0\.0\.1:\d+/v1 until Ctrl-C", running.first)
        (endpoint,) = tomllib.loads(running.first.split("\n\n", 1)[1])["endpoints"]
        settings = EndpointSettings(**endpoint)
        assert (settings.provider, settings.api_key_env) == ("nebius", "SANDBOX_KEY")
        assert ask(settings.base_url, "sk-1")["message"]["content"] == "This is the"
        with pytest.raises(urllib.error.HTTPError, match="401"):
            ask(settings.base_url)
        assert running.interrupt() == (0, "")


def test_it_answers_in_json():
    with Running("--json", "--script", '{"text": "Hi"}', last_line="}") as running:
        told = json.loads(running.first)
        assert told["dialect"] == "sandbox"
        assert ask(told["base_url"])["message"]["content"] == "Hi"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--fault", "explode"], "fault: 'explode' is unknown"),
        (["--script", "{"], "not JSON"),
        (["--tokens", "-1"], "tokens: -1"),
        (["--api-key-env", "CADUCEUS_TEST_NOT_SET"], "CADUCEUS_TEST_NOT_SET is not set"),
    ],
)
def test_what_makes_no_sense_is_said(options, message):
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true")
    parser = argparse.ArgumentParser()
    command.add_to(parser.add_subparsers(), common)
    args = parser.parse_args(["sandbox", *options])
    with pytest.raises(CommandError, match=message):
        args.run(args, Settings())
