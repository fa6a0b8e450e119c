import pytest

from export.config import load_config
from runner.errors import UsageError


def test_settings_win_over_the_file(tmp_path):
    (tmp_path / "c.toml").write_text('units = [8, 4]\nstart = -1\nscaling = "none"\n')
    config = load_config(tmp_path / "c.toml", ("scaling=window", "start=last", "epochs=3"))
    assert (config.layers, config.scaling, config.start, config.epochs) == ([8, 4], "window", "last", 3)


def test_every_wrong_key_and_value_is_reported_at_once(tmp_path):
    (tmp_path / "c.toml").write_text('unitz = 3\nepochs = "many"\n')
    with pytest.raises(UsageError) as caught:
        load_config(tmp_path / "c.toml", ("scaling=tall", "patience=0"))
    assert all(word in str(caught.value) for word in ("unitz", "epochs", "scaling", "patience"))


@pytest.mark.parametrize(
    "setting", ["units=[]", "units=[1,2,3,4]", "units=0", "novalue", "seed=-1", "learning_rate=nan"]
)
def test_values_that_cannot_be_followed_are_refused(setting):
    with pytest.raises(UsageError):
        load_config(None, (setting,))


@pytest.mark.parametrize("setting", ["precision=fp32,int8", 'precision=["fp32","int8"]', "precision=int8,fp32"])
def test_precisions_may_be_a_list_or_words_with_commas(setting):
    assert set(load_config(None, (setting,)).precision) == {"fp32", "int8"}
    assert load_config(None, ()).precision == ["fp32"]


@pytest.mark.parametrize("setting", ["precision=int8", 'precision=["int8"]', "precision=[]"])
def test_a_bundle_without_float32_cannot_be_asked_for(setting):
    with pytest.raises(UsageError, match="int8 is made from the float32 graphs"):
        load_config(None, (setting,))


@pytest.mark.parametrize("setting", ["precision=fp32,int4", "precision=fp16", "precision=8", "precision="])
def test_a_precision_that_nobody_knows_is_refused(setting):
    with pytest.raises(UsageError, match="precision"):
        load_config(None, (setting,))


def test_a_config_that_is_no_toml_or_not_there_is_refused(tmp_path):
    (tmp_path / "c.toml").write_text("= 3")
    for name in ("c.toml", "d.toml"):
        with pytest.raises(UsageError, match=name):
            load_config(tmp_path / name, ())


@pytest.mark.parametrize(
    "setting",
    ["strategy=hope", "sampling_decay=cubic", "input_noise=-0.1", "extra_epochs=0", "strategy=", "input_noise=x"],
)
def test_what_no_strategy_knows_is_refused_by_name(setting):
    with pytest.raises(UsageError, match=setting.partition("=")[0]) as caught:
        load_config(None, (setting,))
    assert caught.value.exit_code == 2


def test_noise_that_would_do_nothing_is_refused():
    assert load_config(None, ("input_noise=0.2", "strategy=curriculum")).input_noise == 0.2
    with pytest.raises(UsageError, match="no teacher's inputs"):
        load_config(None, ("input_noise=0.2", "strategy=free-running"))
