"""Numbers that JSON has no word for."""

import json
import math

from mlops.json_values import from_json, to_json


def test_numbers_that_are_not_finite_come_back():
    values = {"a": math.nan, "b": [{"c": math.inf, "d": 1.5}], "e": -math.inf, "f": None}
    text = json.dumps(to_json(values), allow_nan=False)
    back = from_json(json.loads(text))
    assert math.isnan(back.pop("a"))
    assert back == {"b": [{"c": math.inf, "d": 1.5}], "e": -math.inf, "f": None}


def test_a_flag_stands_beside_the_null():
    assert to_json({"x": math.inf}) == {"x": None, "x_flag": "inf"}
