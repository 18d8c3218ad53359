"""Services rolled back, retired and restored over HTTP."""

from __future__ import annotations

from tests.mlops.api.conftest import Client, World


def test_a_service_goes_back_to_its_previous_champion(own_world: World) -> None:
    client = own_world.client
    answer = client.post(f"services/{own_world.service}/rollback", json={"reason": "it drifts"})
    assert answer.status_code == 200
    assert answer.json()["champion"] == own_world.baseline
    again = client.post(f"services/{own_world.service}/rollback")
    assert again.status_code == 409
    assert "on its baseline" in again.json()["detail"]


def test_a_service_is_retired_and_restored(own_world: World) -> None:
    client, path = own_world.client, f"services/{own_world.service}"
    assert client.post(f"{path}/retire").json()["retired_at"].endswith("Z")
    assert client.post(f"{path}/retire").status_code == 409
    assert client.post(f"{path}/restore").json()["retired_at"] is None


def test_an_unknown_service_is_not_found(client: Client) -> None:
    for change in ("rollback", "retire", "restore"):
        assert client.post(f"services/sample.btc-usd.1h.return.1/{change}").status_code == 404
