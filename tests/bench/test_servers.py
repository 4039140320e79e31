from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from bench.servers import Engine, bare_group, config, free_ports, local_model, on_cpu, switchboard_group
from serve.config import load_file
from tests.serve.config.local import local


def test_both_servers_are_told_the_same_of_the_engine(tmp_path: Path) -> None:
    engine = Engine(kv_cache_gib=2, max_loras=3, max_lora_rank=16)
    path = tmp_path / "serve_config.yaml"
    path.write_text(yaml.safe_dump(config(local_model(tmp_path, engine), 8123, tmp_path / "state.db")))
    settings, binding = load_file(path, check_paths=False)
    told = local(settings).engine
    flags = engine.flags()

    def flag(name: str) -> str:
        return flags[flags.index(name) + 1]

    assert (binding.host, binding.port) == ("127.0.0.1", 8123)
    assert "--enable-lora" in flags
    assert (flag("--max-loras"), flag("--max-cpu-loras")) == (str(told.max_loras), str(told.adapter_slots))
    assert flag("--max-lora-rank") == str(told.max_lora_rank)
    assert flag("--gpu-memory-utilization") == str(told.gpu_memory_utilization)
    if on_cpu():
        assert engine.environment()["VLLM_CPU_KVCACHE_SPACE"] == str(told.kv_cache_gib)


@pytest.mark.parametrize(
    ("command", "group"),
    [
        ("VLLM::EngineCore", "switchboard: engine"),
        ("ray::ServeReplica:switchboard:Router", "switchboard: routers"),
        ("ray::ServeReplica:switchboard:LocalManager-demo", "switchboard: manager"),
        ("ray::ServeReplica:switchboard:OpenAIManager-gpt", "switchboard: manager"),
        ("ray::ServeReplica:switchboard:Registry", "switchboard: Ray and registry"),
        ("/somewhere/bin/haproxy -db -f haproxy.cfg", "switchboard: HAProxy"),
        ("ray::HAProxyManager", "switchboard: Ray and registry"),
        ("raylet --plasma", "switchboard: Ray and registry"),
    ],
)
def test_processes_are_sorted_by_what_they_do(command: str, group: str) -> None:
    assert switchboard_group(command) == group


def test_a_bare_server_is_its_engine_and_the_rest() -> None:
    assert bare_group("VLLM::Worker") == "bare: engine"
    assert bare_group("python -m vllm.entrypoints.openai.api_server") == "bare: API server"


def test_free_ports_differ() -> None:
    assert len(set(free_ports(20))) == 20
