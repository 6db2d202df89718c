"""What a preset may say, and what it is told when it says something else."""

from pathlib import Path

import pytest
import torch
import yaml

from blurcli.base.errors import UsageError
from blurcli.config import (
    FREE_KEYS,
    Config,
    DiffusionConfig,
    differing_keys,
    flatten,
    from_json,
    load_config,
    parse_overrides,
    preset_names,
    preset_summary,
    to_json,
    to_yaml,
    yaml_text,
)
from blurcli.model.inference import build_network


def write(folder: Path, text: str, name: str = "mine.yaml") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_bundled_presets() -> None:
    assert set(preset_names()) >= {
        "shapes-blur",
        "shapes-noblur",
        "cifar10-blur",
        "cifar10-blur-fast",
        "cifar10-small",
        "cifar10-noblur",
        "cifar10-blur-paper",
        "mnist-blur",
        "folder-blur",
    }
    for name in preset_names():
        assert preset_summary(name)
        config = load_config(name)
        assert yaml.safe_load(to_yaml(config)) == yaml.safe_load(to_json(config))
        assert from_json(to_json(config), "here") == config


@pytest.mark.parametrize("source", ["1e3", "0\U0001f600", "\U0001f600 2", "0 \x85\u2028", "12 x" * 50])
def test_any_text_is_read_as_it_was_written(tmp_path: Path, source: str) -> None:
    config = load_config("shapes-blur", [("here", "data.source", source)])
    assert load_config(write(tmp_path, to_yaml(config))).data.source == source  # no such folder: as it is
    ((_, _, value),) = parse_overrides([f"data.value={yaml_text(source)}"])
    assert value == source


def test_noblur_differs_in_one_key() -> None:
    assert differing_keys(load_config("cifar10-blur"), load_config("cifar10-noblur")) == ["process.blur_sigma_max: None -> 0.0"]


def test_another_process_or_growth_of_the_blur_supersedes_the_inherited_keys(tmp_path: Path) -> None:
    heat = "process: {kind: heat}\noptim: {time_sampling: uniform}\nsample: {sampler: heat, delta: 0}"
    for text in (heat, "process: {blur_schedule: sin2, blur_sigma_max: 20}"):
        load_config(write(tmp_path, f"extends: cifar10-blur\n{text}"))
    config = load_config("cifar10-blur", parse_overrides(["process.blur_schedule=linear", "process.blur_sigma_max=3"]))
    assert config.process == DiffusionConfig(blur_schedule="linear", blur_sigma_max=3)
    # But what is said together must agree.
    both = [["process.blur_schedule=linear", "process.blur_noise_ratio=1"], ["process.blur_noise_ratio=1", "process.kind=heat"]]
    for assignments in both:
        with pytest.raises(UsageError, match=r"blur_noise_ratio(: this key is for another process.kind| is for blur_schedule)"):
            load_config("cifar10-blur", parse_overrides(assignments))


def test_the_papers_objective_in_the_settings_of_the_unofficial_implementation() -> None:
    config = load_config("cifar10-blur-paper")
    assert (config.objective, config.sample.sampler, config.sample.steps) == ("eps", "ancestral", 100)
    assert (config.train.batch_size, config.optim.lr, config.optim.warmup_steps) == (128, 2e-4, 5000)


def test_the_papers_network_has_the_parameters_that_are_reported() -> None:
    with torch.device("meta"):
        network = build_network(load_config("cifar10-blur-paper-network"))
    assert round(network.parameter_count() / 1e6, 1) == 49.5


def test_every_key_has_a_description() -> None:
    for line in to_yaml(Config()).splitlines():  # type: ignore[call-arg]
        assert line.partition("  # ")[2]


def test_later_values_win(tmp_path: Path) -> None:
    write(tmp_path, "train: {steps: 7, batch_size: 5}\n", "base.yaml")
    child = write(tmp_path, "extends: ./base.yaml\ntrain: {steps: 9}\n")
    config = load_config(child, parse_overrides(["optim.lr=1e-3", "data.image_size=[16, 24]"]))
    assert (config.train.steps, config.train.batch_size, config.optim.lr) == (9, 5, 1e-3)
    assert config.data.image_size == (16, 24)


def test_extends_a_bundled_preset(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "extends: mnist-blur\nseed: 3\n"))
    assert (config.seed, config.data.channels) == (3, 1)


def test_an_empty_preset_is_the_defaults(tmp_path: Path) -> None:
    assert load_config(write(tmp_path, "")) == Config()  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {batch_size: 0}", "mine.yaml: train.batch_size: got 0; input should be greater than or equal to 1"),
        ("process: {blur_sigma_mx: 3}", "mine.yaml: process.blur_sigma_mx: unknown key; did you mean 'process.blur_sigma_max'?"),
        ("batch_size: 3", "mine.yaml: batch_size: unknown key; did you mean 'train.batch_size'?"),
        ("zzz: 3", "mine.yaml: zzz: unknown key"),
        ("objective: epsilon", "mine.yaml: objective: got 'epsilon'; input should be one of 'spectral', 'v', 'eps', 'consistency', 'residual'"),
        ("process: {min_scale: .nan}", "mine.yaml: process.min_scale: got nan; input should be a finite number"),
        ("process: {blur_sigma_max: null}", "mine.yaml: process: blur_sigma_max: null is for blur_schedule: noise-ratio"),
        ("process: {blur_noise_ratio: 1}", "mine.yaml: process: blur_noise_ratio is for blur_schedule: noise-ratio"),
        ("process: {blur_schedule: noise-ratio}", "mine.yaml: process: blur_noise_ratio is for blur_schedule: noise-ratio"),
        *(
            (f"process: {{blur_schedule: noise-ratio, blur_noise_ratio: {ratio}}}", "mine.yaml: process.blur_noise_ratio: got")
            for ratio in ("-1", "0", ".inf")
        ),
        ("process: {blur_sigma_max: -1}", "mine.yaml: process.blur_sigma_max: got -1; input should be greater than or equal to 0"),
        ("process: {logsnr_min: 20}", "mine.yaml: process: logsnr_min must be below logsnr_max"),
        ("train: {steps: many}", "mine.yaml: train.steps: got 'many'; input should be a valid integer"),
        ("train: {steps: yes}", "mine.yaml: train.steps: got True; true and false (or yes and no) are not allowed"),
        ("train: 5", "mine.yaml: train: got 5; it must be a mapping"),
        ("data: {image_size: 30}", "data.image_size [30, 30]: both sides must be multiples of 8"),
        ("data: {image_size: [8]}", "mine.yaml: data.image_size: got"),
        ("model: {attention_levels: [4]}", "attention_levels count from 0 and must be below 4"),
        ("model: {head_channels: 7}", "head_channels must divide the width of every level"),
        ("model: {multipliers: []}", "mine.yaml: model.multipliers: got []"),
        ("data: {channels: 2}", "mine.yaml: data.channels: got 2; input should be 1 or 3"),
        ("extends: [a, b]", "mine.yaml: extends: got ['a', 'b']; it must be the name or path of one preset"),
        ("extends: ./mine.yaml", "the presets extend each other in a circle"),
        ("extends: cifar-blur", "preset 'cifar-blur' is unknown; did you mean 'cifar10-blur'?"),
        ("extends: ./absent.yaml", "absent.yaml: no such file"),
        ("- a\n- b", "mine.yaml: must be a mapping of keys to values"),
        ("3: 4", "mine.yaml: must be a mapping of keys to values"),
        ("train: {steps: 1\nx", "mine.yaml: not valid YAML in line"),
        ("seed: 1\nseed: 2", "mine.yaml: not valid YAML in line 1: key 'seed' appears twice"),
        ("train: {steps: 1, steps: 2}", "key 'steps' appears twice"),
        ("seed: !!python/object/apply:os.system [ls]", "mine.yaml: not valid YAML in line 1: could not determine a constructor"),
    ],
)  # fmt: skip
def test_errors_name_file_key_value_and_what_is_allowed(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        load_config(write(tmp_path, text))
    assert message in str(error.value)


def test_all_errors_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as error:
        load_config(write(tmp_path, "train: {steps: 0, batch_size: 0}"))
    assert len(str(error.value).splitlines()) == 2


def test_errors_of_overrides_name_the_override(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^`set` train.steps=0: train.steps: got 0; input should be greater"):
        load_config("shapes-blur", parse_overrides(["train.steps=0"]))
    with pytest.raises(UsageError, match=r"^`set` data.image_size=30: data.image_size \[30, 30\]"):
        load_config("shapes-blur", parse_overrides(["data.image_size=30"]))


@pytest.mark.parametrize("assignment", ["train.steps", "=3", "train..steps=3"])
def test_overrides_need_a_key_and_a_value(assignment: str) -> None:
    with pytest.raises(UsageError, match="use key=value"):
        parse_overrides([assignment])


def test_override_that_is_no_yaml() -> None:
    with pytest.raises(UsageError, match="is not a YAML value"):
        parse_overrides(["train.steps=[1"])


def test_files_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match=r"x.yaml: not a text file in UTF-8"):
        load_config(str(tmp_path / "x.yaml"))


def test_unknown_preset_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"preset 'shapes-blurr' is unknown; did you mean 'shapes-blur'\? \(known: .*cifar10"):
        load_config("shapes-blurr")


def test_damaged_json() -> None:
    with pytest.raises(UsageError, match=r"w.safetensors: its configuration is not JSON"):
        from_json("{", "w.safetensors")


def test_free_keys_exist_and_do_not_count_as_differences() -> None:
    assert set(flatten(Config())) >= FREE_KEYS  # type: ignore[call-arg]
    changed = load_config("shapes-blur", parse_overrides(["train.steps=5", "sample.steps=3", "score.n=9"]))
    assert differing_keys(load_config("shapes-blur"), changed) == []


def test_a_contradiction_is_blamed_on_the_keys_that_it_is_about() -> None:
    overrides = [*parse_overrides(["data.image_size=20", "data.flip=true"]), ("--data x", "data.source", "x")]
    with pytest.raises(UsageError, match=r"^`set` data.image_size=20: data.image_size \[20, 20\]: both sides"):
        load_config("shapes-blur", overrides)
