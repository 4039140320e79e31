"""`load_args`: what a single entry must be, and how a fault reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from serve.config import load_args
from serve.errors import ConfigError
from serve.gateway.session_pages import MAX_BODY_BYTES
from tests.serve.config.conftest import Args, Faults
from tests.serve.config.local import local


def test_a_valid_configuration_has_no_faults(args: Args, faults: Faults) -> None:
    assert faults(args) == ()


def test_one_model_is_all_that_must_be_said(root: Path) -> None:
    model = {"name": "demo", "provider": "local", "model_id": "models/demo"}
    settings = load_args({"models": [model]}, env={}, root=root)
    assert settings.router.replicas == 2
    assert settings.limits.body_bytes == 10 * 1024**2
    assert local(settings).engine.adapter_slots == 0
    assert settings.auth.key_digests == ()


@pytest.mark.parametrize(
    ("timeouts", "keepalive_s"), [({}, 15), ({"keepalive_s": 5}, 5), ({"keepalive_s": None}, None)]
)
def test_comments_in_silent_streams_can_be_switched_off(
    args: Args, root: Path, timeouts: Args, keepalive_s: float | None
) -> None:
    settings = load_args(args | {"timeouts": timeouts | {"idle_s": 10}}, env={}, root=root)
    assert settings.timeouts.keepalive_s == keepalive_s


def test_all_faults_are_reported_at_once_each_once(args: Args, faults: Faults) -> None:
    args["models"][0]["engine"] |= {"max_lora": 3, "max_num_seqs": "many"}
    args["models"][0]["api_key"] = "${KEY}"
    args["models"][1] |= {"provider": "azure", "fallback_model": "demo"}
    args["adapters"][0]["model"] = "demmo"
    args["adapters"].append({"name": "late", "model": "demo", "source": "models/late"})
    args["bots"]["sales-bot"]["adapters"] = ["sale"]
    args["autoscale"] = {}
    assert faults(args) == (
        "adapters[0].model: there is no model 'demmo'; did you mean 'demo'?",
        "adapters[2].source: there is no directory 'models/late'",
        "autoscale: unknown key",
        "bots.sales-bot.adapters[0]: there is no adapter 'sale'; did you mean 'sales'?",
        "bots.support-bot.adapters[0]: adapter 'support' is for 'demmo', and this bot's model is 'demo'",
        "models[0].api_key: the environment variable KEY is not set; ${KEY:-default} would do without it",
        "models[0].engine.max_lora: unknown key; did you mean 'max_loras'?",
        "models[0].engine.max_num_seqs: should be a whole number",
        "models[1].provider: is not supported; supported: 'local', 'huggingface', 'openai', 'anthropic'",
    )


def test_the_error_carries_the_source_and_reads_as_a_list() -> None:
    with pytest.raises(ConfigError) as caught:
        load_args({"models": []}, source="my.yaml", env={})
    assert str(caught.value) == "my.yaml is not a valid configuration:\n  - models: at least one model is needed"


@pytest.mark.parametrize(
    ("place", "value", "fault"),
    [
        ("model_id", 5, "model_id: should be text; YAML reads int here, so quote it"),
        (
            "name",
            "a:b",
            "name: must be 1 to 128 letters, digits, '.', '_', '/' or '-', the first a letter or digit",
        ),
        ("name", None, "name: should be text"),
        ("engine", [], "engine: should be a mapping"),
        ("engine.max_loras", True, "engine.max_loras: should be a whole number"),
        ("engine.max_loras", 2.0, "engine.max_loras: should be a whole number"),
        ("engine.max_loras", -1, "engine.max_loras: should be greater than or equal to 0"),
        (
            "engine.max_lora_rank",
            12,
            "engine.max_lora_rank: should be 1, 8, 16, 32, 64, 128, 256, 320 or 512",
        ),
        ("engine.enforce_eager", 1, "engine.enforce_eager: should be true or false"),
        (
            "engine.gpu_memory_utilization",
            1.5,
            "engine.gpu_memory_utilization: should be less than or equal to 1",
        ),
        ("engine.runner", "both", "engine.runner: should be 'generate' or 'pooling'"),
        ("engine.max_cpu_loras", 1, "engine: max_cpu_loras (1) is below max_loras (2)"),
        ("engine.extra", {"model": "x"}, "engine.extra: must not set model, which Switchboard sets"),
        ("engine.extra", {"dtype": "x"}, "engine.extra: must not set dtype, which is a key of engine itself"),
        ("resources.num_gpus", 1.5, "resources.num_gpus: must be a fraction up to 1, or a whole number"),
        (
            "resources.custom",
            {"GPU": 1},
            "resources.custom: must not hold GPU, which Ray has keys of its own for",
        ),
        ("resources.custom", {"x": 0}, "resources.custom.x: should be greater than 0"),
        ("autoscaling.min_replicas", 2, "autoscaling: min_replicas (2) is above max_replicas (1)"),
        (
            "default_params",
            {"stream": True},
            "default_params: must not set stream: that is for the request to say",
        ),
        (
            "default_params",
            {"t": float("nan")},
            "default_params: holds a number that JSON cannot carry (.nan, .inf, or far too long)",
        ),
        ("default_params", {"t": {1, 2}}, "default_params.t: holds a value that JSON does not have"),
        ("api_key", "k", "api_key has no use without base_url"),
    ],
)
def test_a_wrong_value_of_a_model(args: Args, faults: Faults, place: str, value: Any, fault: str) -> None:
    *sections, key = place.split(".")
    at = args["models"][0]
    for section in sections:
        at = at.setdefault(section, {})
    at[key] = value
    path = "models[0]: " if fault.startswith("api_key has") else "models[0]."
    assert path + fault in faults(args)


@pytest.mark.parametrize(
    ("section", "fault"),
    [
        ({"limits": {"body_mib": 0}}, "limits.body_mib: should be greater than 0"),
        ({"timeouts": {"idle_s": 700}}, "timeouts: total_s (600) is below another of them (700)"),
        ({"timeouts": {"keepalive_s": 0}}, "timeouts.keepalive_s: should be greater than 0"),
        ({"timeouts": {"keepalive_s": 3601}}, "timeouts.keepalive_s: should be less than or equal to 3600"),
        ({"timeouts": {"keepalive_s": "often"}}, "timeouts.keepalive_s: should be a number"),
        ({"registry": {"expiry_s": 1.5}}, "registry: expiry_s (1.5) must be at least twice heartbeat_s (1)"),
        ({"registry": None}, "registry: should be a mapping"),
        ({"router": {"replica": 1}}, "router.replica: unknown key; did you mean 'replicas'?"),
        ({"cluster": {"secret": "short"}}, "cluster.secret: must be 16 to 512 visible ASCII characters"),
        (
            {"cluster": {"replica_host": "host:80"}},
            "cluster.replica_host: must be an IP address or a host name, without a port",
        ),
        (
            {"sessions": {"store": "sqlite:///:memory:"}},
            "sessions.store: must be sqlite:///FILE or postgresql+psycopg://USER:PASSWORD@HOST/DATABASE",
        ),
        ({"models": {}}, "models: should be a list"),
        (
            {"bots": {"b": {"model": "demo", "default_params": {"x": ["\ud800"]}}}},
            "bots.b.default_params.x[0]: holds half a character (a lone surrogate)",
        ),
        (
            {"sessions": {"max_metadata_bytes": 65_536}},
            "sessions.max_metadata_bytes: should be less than or equal to 61440",
        ),
    ],
)
def test_a_wrong_value_elsewhere(args: Args, faults: Faults, section: Args, fault: str) -> None:
    assert faults(args | section) == (fault,)


def test_the_most_metadata_that_can_be_allowed_fits_a_request(args: Args, root: Path) -> None:
    settings = load_args(args | {"sessions": {"max_metadata_bytes": 61_440}}, env={}, root=root)
    empty = len(json.dumps({"": ""}))
    metadata = {"": "x" * (settings.sessions.max_metadata_bytes - empty)}
    assert len(json.dumps({"bot_type": "b" * 128, "metadata": metadata})) <= MAX_BODY_BYTES


@pytest.mark.parametrize("args", [None, [], "text", 5])
def test_arguments_that_are_no_mapping(faults: Faults, args: Any) -> None:
    assert faults(args) == ("(top): should be a mapping",)


def test_missing_models(faults: Faults) -> None:
    assert faults({}) == ("models: is required",)


def test_an_unknown_key_does_not_hide_a_rule_between_keys(args: Args, faults: Faults) -> None:
    args["models"][0]["autoscaling"] = {"min_replicas": 3, "max": 1}
    assert faults(args) == (
        "models[0].autoscaling: min_replicas (3) is above max_replicas (1)",
        "models[0].autoscaling.max: unknown key",
    )


class TestReferences:
    def test_a_reference_may_stand_for_a_number_or_a_truth_value(self, args: Args, root: Path) -> None:
        args["models"][0]["engine"] = {"max_loras": "${N}", "enforce_eager": "${E}"}
        args["models"][0]["default_params"] = {"temperature": "${T}", "stop": ["${S}", "${Q:-}"]}
        args["timeouts"] = {"connect_s": "${C:-1.5}"}
        env = {"N": "3", "E": "true", "T": "0.7", "S": "END"}
        settings = load_args(args, env=env, root=root)
        assert local(settings).engine.max_loras == 3
        assert local(settings).engine.enforce_eager is True
        assert settings.models[0].default_params == {"temperature": 0.7, "stop": ["END"]}
        assert settings.timeouts.connect_s == 1.5

    @pytest.mark.parametrize("text", ["many", "1.5", "0x10"])
    def test_but_not_for_a_wrong_one(self, args: Args, faults: Faults, text: str) -> None:
        args["models"][0]["engine"] = {"max_loras": "${N}"}
        assert "models[0].engine.max_loras: should be a whole number" in faults(args, env={"N": text})

    def test_an_empty_reference_means_the_default(self, args: Args, root: Path) -> None:
        args |= {
            "auth": {"keys": "${KEYS:-}"},
            "cluster": {"secret": "${SECRET:-}"},
            "router": {"replicas": "${R:-}"},
        }
        settings = load_args(args, env={}, root=root)
        assert settings.auth.key_digests == ()
        assert settings.cluster.secret.get_secret_value() == ""
        assert settings.router.replicas == 2


class TestOutsideServer:
    def test_it_needs_no_model_on_disk(self, root: Path) -> None:
        model = {
            "name": "llama",
            "provider": "local",
            "model_id": "llama3",
            "base_url": "http://[::1]:11434/v1/",
        }
        settings = load_args({"models": [model]}, env={}, root=root)
        assert local(settings).base_url == "http://[::1]:11434/v1"
        assert settings.models[0].model_id == "llama3"

    @pytest.mark.parametrize(
        "url",
        [
            "ftp://host/v1",
            "host:80",
            "http://",
            "http://:80",
            "http://h:99999",
            "http://[::1",
            "file:///etc/passwd",
            "http://ok\\@127.0.0.1",
            "http://user:pw@host/v1",
            "http://h/v1?key=1",
            "http://h/#x",
            "http://h/ v1",
            "",
        ],
    )
    def test_only_a_plain_http_url_will_do(self, faults: Faults, url: str) -> None:
        model = {"name": "llama", "provider": "local", "model_id": "llama3", "base_url": url}
        (fault,) = faults({"models": [model]})
        assert fault.startswith("models[0].base_url: ")
        assert "pw" not in fault

    def test_it_takes_no_engine(self, faults: Faults) -> None:
        model = {"name": "m", "provider": "local", "model_id": "m", "base_url": "http://h", "engine": {}}
        assert faults({"models": [model]}) == (
            "models[0]: engine has no use with base_url: another server runs the model",
        )


class TestAdapterFiles:
    @pytest.mark.parametrize(
        ("entry", "fault"),
        [
            ({}, "needs either source or versions, and not both"),
            ({"source": "a", "versions": {"v1": "b"}}, "needs either source or versions, and not both"),
            ({"source": "a", "current": "v1"}, "current has no use without versions"),
            (
                {"versions": {"v1": "a", "v2": "b"}},
                "current must say which of the versions is meant by default",
            ),
            (
                {"versions": {"v1": "a"}, "current": "v2"},
                "current names 'v2', which is not among the versions",
            ),
        ],
    )
    def test_a_way_to_its_files(self, args: Args, faults: Faults, entry: Args, fault: str) -> None:
        args["adapters"].append({"name": "new", "model": "demo"} | entry)
        assert faults(args) == (f"adapters[2]: {fault}",)

    @pytest.mark.parametrize(
        ("label", "fault"),
        [
            ("v:1", "must be 1 to 64 letters, digits, '.', '_' or '-'"),
            ("0123456789ab", "must not be 12 hexadecimal digits: it could be taken for a digest"),
        ],
    )
    def test_a_label_that_cannot_be_an_address(self, args: Args, faults: Faults, label: str, fault: str) -> None:
        args["adapters"][1]["versions"] = {label: "models/sales"}
        assert faults(args) == (f"adapters[1].versions['{label}']: {fault}",)

    def test_the_only_version_is_the_current_one(self, args: Args, root: Path) -> None:
        support, sales = load_args(args, env={}, root=root).adapters
        assert (support.current_label, dict(support.sources)) == (None, {None: f"{root}/models/support"})
        assert (sales.current_label, dict(sales.sources)) == ("v1", {"v1": f"{root}/models/sales"})


class TestPaths:
    def test_relative_paths_become_absolute(self, args: Args, root: Path) -> None:
        (root / "chat.jinja").write_text("")
        args["models"][0]["engine"]["chat_template"] = "chat.jinja"
        args["sessions"] = {"store": "sqlite:///state/db?timeout=5"}
        settings = load_args(args, env={}, root=root)
        assert settings.models[0].model_id == f"{root}/models/demo"
        assert local(settings).engine.chat_template == f"{root}/chat.jinja"
        assert settings.adapter_storage.cache_dir == f"{root}/.switchboard/adapters"
        assert settings.sessions.store.get_secret_value() == f"sqlite:///{root}/state/db?timeout=5"

    def test_absolute_paths_and_other_databases_stay(self, args: Args, root: Path) -> None:
        args["models"][0]["model_id"] = str(root / "models" / "demo")
        args["sessions"] = {"store": "postgresql+psycopg://u:p@h/d"}
        settings = load_args(args, env={}, root=root / "elsewhere", check_paths=False)
        assert settings.models[0].model_id == f"{root}/models/demo"
        assert settings.sessions.store.get_secret_value() == "postgresql+psycopg://u:p@h/d"

    def test_what_is_not_there_is_named(self, args: Args, root: Path, faults: Faults) -> None:
        (root / "empty").mkdir()
        args["models"][0] |= {"model_id": "empty"}
        args["models"][0]["engine"]["chat_template"] = "no.jinja"
        args["models"][1]["model_id"] = "x" * 4000
        args["adapters"][0]["source"] = "s3://bucket/support"
        args["adapters"][1]["versions"] = {"v1": "a\0b"}
        assert faults(args) == (
            "adapters[0].source: must be a path on disk, not a URL",
            "adapters[1].versions.v1: there is no directory 'a\\x00b'",
            "models[0].engine.chat_template: there is no file 'no.jinja'",
            "models[0].model_id: the directory 'empty' holds no config.json",
            f"models[1].model_id: there is no directory '{'x' * 4000}'",
        )

    def test_a_model_cache_that_one_of_its_models_never_fits_is_refused_where_it_is_set(
        self, args: Args, root: Path, faults: Faults
    ) -> None:
        (root / "models/other/model.safetensors").write_bytes(bytes(3 * 2**20))
        for model in args["models"]:
            model["manager"] = "both"
        args["models"][0]["model_cache_gib"] = 2 / 1024
        assert faults(args) == (
            "models[0].model_cache_gib: is too small for the weights and KV cache of 'other', 0.00 GiB",
        )
        args["models"][0]["engine"]["kv_cache_gib"] = 4
        args["models"][0]["model_cache_gib"] = 3
        assert faults(args) == (
            "models[0].model_cache_gib: is too small for the weights and KV cache of 'demo', 4.00 GiB",
        )
        args["models"][0]["model_cache_gib"] = 4
        assert faults(args) == ()

    def test_without_a_bound_a_model_of_any_size_will_do(self, args: Args, root: Path) -> None:
        args["models"][0]["engine"]["kv_cache_gib"] = 16_384
        settings = load_args(args, env={}, root=root)
        assert settings.managers()["demo"].model_cache_bytes > 16_384 * 1024**3

    def test_the_disk_is_not_asked_where_another_machine_has_the_models(self, args: Args, tmp_path: Path) -> None:
        settings = load_args(args, env={}, root=tmp_path / "nowhere", check_paths=False)
        assert settings.models[0].model_id == f"{tmp_path}/nowhere/models/demo"
