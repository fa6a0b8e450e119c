import pytest

from export.config import TrainConfig, load_config
from export.recipe import settled
from runner.errors import UsageError

NEEDED = ("context_length=24", "horizon=6", "freq=h")


def recipe_of(*settings):
    return settled(load_config(None, (*NEEDED, *settings)), "long")


def test_the_features_are_the_target_then_what_is_past_then_what_is_known_ahead_then_the_calendar():
    config, recipe = recipe_of(
        *("target=load", "past_features=temp,wind", "future_features=promo", "calendar=holiday,hour"),
        "holidays=2026-12-26,2026-12-25",
    )
    ahead = ("promo", "holiday", "hour_sin", "hour_cos")
    assert recipe.features.past == ("load", "temp", "wind", *ahead)
    assert recipe.features.future_known == ahead
    assert (config.feature_names, config.future_names) == ([*recipe.features.past], [*ahead])
    assert recipe.record() == {
        "freq": "h",
        "calendar": {"features": ["holiday", "hour"], "holidays": ["2026-12-25", "2026-12-26"]},
    }


@pytest.mark.parametrize(("given", "told"), [("15min", "15min"), ("1", "1"), ("M", "ME"), ("1h", "h")])
def test_a_freq_is_written_as_the_runner_reads_it(given, told):
    assert recipe_of(f"freq={given}")[1].record() == {"freq": told, "calendar": None}


@pytest.mark.parametrize("days", ["2026-12-25", "[2026-12-25]", '"2026-12-25"', '["2026-12-25"]'])
def test_a_holiday_may_be_a_word_or_a_date_of_toml(days):
    _, recipe = recipe_of("calendar=holiday", f"holidays={days}")
    assert recipe.calendar.holidays == ("2026-12-25",)


def test_all_that_is_missing_or_contradicts_itself_is_listed_at_once():
    settings = "horizon=6", "past_features=x,x", "future_features=y", "feature_names=a,b", "holidays=2026-13-01"
    with pytest.raises(UsageError) as caught:
        settled(load_config(None, settings), "long")
    told = f"{caught.value}"
    assert all(
        word in told
        for word in (
            *("context_length: is missing", "freq: is missing", "feature_names: belongs to --layout windows"),
            *("x: is named twice", "y: is named twice", "calendar: "),
        )
    )
    assert "horizon: is missing" not in told


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (("freq=fortnight",), "freq: the frequency is not understood"),
        (("calendar=holiday",), "holidays are given if, and only if, holiday is a calendar feature"),
        (("holidays=2026-12-25", "calendar=hour"), "holidays are given if, and only if"),
        (("holidays=25.12.2026", "calendar=holiday"), "holidays are not dates"),
        (("freq=1", "calendar=hour"), "calendar: needs times"),
        (("calendar=hour", "past_features=hour_sin"), "hour_sin: is named twice"),
        (("target_feature=1",), "target_feature: belongs to --layout windows"),
    ],
)
def test_what_does_not_go_together_is_refused_by_name(settings, told):
    with pytest.raises(UsageError, match=told) as caught:
        recipe_of(*settings)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("setting", ["calendar=year", "stride=0", "context_length=0", "horizon=-1", "valid_stride=0"])
def test_values_that_no_series_can_have_are_refused_by_key(setting):
    with pytest.raises(UsageError, match=setting.partition("=")[0]):
        load_config(None, (setting,))


def test_of_windows_the_keys_of_series_are_refused_and_all_else_is_as_it_was():
    with pytest.raises(UsageError) as caught:
        settled(load_config(None, (*NEEDED, "stride=2", "calendar=hour")), "windows")
    assert all(f"{key}: belongs to --layout long" in f"{caught.value}" for key in ("horizon", "stride", "calendar"))
    config = TrainConfig(units=3)
    assert settled(config, "windows") == (config, None)
