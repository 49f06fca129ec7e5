import dataclasses

import pytest

from w207lib import config


def test_a_profile_comes_as_it_is_written():
    for name, profile in config.PROFILES.items():
        assert config.load(name) is not None and config.load(name) == profile
        assert profile.name == name


def test_a_setting_is_replaced_and_the_others_stay():
    own = config.load("sample")
    changed = config.load("sample", epochs=own.epochs + 1, svm_rows=100)
    assert (changed.epochs, changed.svm_rows) == (own.epochs + 1, 100)
    assert dataclasses.replace(changed, epochs=own.epochs, svm_rows=own.svm_rows) == own


def test_none_keeps_the_profiles_own_value():
    assert config.load("cifake", epochs=None, svm_rows=None) == config.load("cifake")


def test_an_unknown_profile_is_refused_and_the_known_ones_named():
    with pytest.raises(ValueError, match="profile 'imagenet' is unknown; there are sample, cif"):
        config.load("imagenet")


@pytest.mark.parametrize("key", ["epoch", "learning_rate", "__init__"])
def test_an_unknown_setting_is_refused(key):
    with pytest.raises(ValueError, match=f"'{key}' is not a setting"):
        config.load("sample", **{key: 3})


@pytest.mark.parametrize(
    ("key", "value"),
    [("epochs", "3"), ("epochs", 3.0), ("epochs", True), ("precision", 16), ("svm_rows", "all"),
     ("validation_fraction", "0.2")],
)  # fmt: skip
def test_a_value_of_another_type_is_refused(key, value):
    with pytest.raises(TypeError, match=f"{key} is {value!r}"):
        config.load("sample", **{key: value})


def test_a_whole_number_may_stand_for_a_float_and_is_then_checked():
    with pytest.raises(ValueError, match="validation_fraction is 1.0"):
        config.load("sample", validation_fraction=1)


@pytest.mark.parametrize(
    ("key", "value"),
    [("image_size", 7), ("batch_size", 0), ("epochs", 0), ("patience", 0), ("tuning_trials", 0),
     ("tuning_epochs", 0), ("seed", -1), ("validation_fraction", 0.0),
     ("validation_fraction", 1.5), ("precision", "float16")],
)  # fmt: skip
def test_a_value_out_of_range_is_refused(key, value):
    with pytest.raises(ValueError, match=f"{key} is {value!r}"):
        config.load("sample", **{key: value})


def test_a_profile_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.load("sample").epochs = 1


def test_all_roots_lie_below_the_home_that_the_environment_names(monkeypatch, tmp_path):
    monkeypatch.setenv("W207_HOME", str(tmp_path))
    monkeypatch.delenv("W207_RUNS", raising=False)
    assert config.home() == tmp_path.resolve()
    assert config.data_root() == tmp_path.resolve() / "data"
    assert config.results_root() == tmp_path.resolve() / "results"
    assert config.runs_root() == tmp_path.resolve() / "runs"


def test_the_runs_may_lie_elsewhere(monkeypatch, tmp_path):
    monkeypatch.setenv("W207_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("W207_RUNS", str(tmp_path / "elsewhere"))
    assert config.runs_root() == tmp_path.resolve() / "elsewhere"


def test_without_the_environment_home_is_the_checkout(monkeypatch):
    monkeypatch.delenv("W207_HOME", raising=False)
    assert (config.home() / "pyproject.toml").is_file()
    assert (config.home() / "w207lib" / "config.py").is_file()


def test_an_installed_package_has_its_home_in_the_current_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("W207_HOME", raising=False)
    monkeypatch.setattr(config, "__file__", str(tmp_path / "site-packages/w207lib/config.py"))
    monkeypatch.chdir(tmp_path)
    assert config.home() == tmp_path
