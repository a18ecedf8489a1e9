"""What a client, a load balancer and an operator are told while the log has no room."""

from __future__ import annotations

from pathlib import Path

import httpx

from ingress.app import Ingress
from ingress.settings import IngressSettings

NOWHERE = {"bootstrap": "127.0.0.1:1"}


async def test_a_full_spool_is_503_until_there_is_room(tmp_path: Path) -> None:
    """Requests get `spool_full`, readiness goes, status and metrics say why; all of it passes."""
    settings = IngressSettings.model_validate({"kafka": NOWHERE, "state_dir": tmp_path, "port": 0, "flush_s": 0})
    ingress = Ingress(settings)
    await ingress.start()
    spool, context = ingress._governance.spool, ingress._context
    assert ingress._opener is not None
    ingress._opener.cancel()
    ingress._is_open, context.closed = True, ""  # as if policy and meter were there
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{ingress._server.port}") as client:
            spool.problem = spool.alarm = "its disk is full, and 5 MiB of events wait for the broker"
            spool.on_problem()
            answer = await client.post("/v1/chat/completions", json={"model": "m", "messages": []})
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "spool_full")
            assert "its disk is full" in answer.json()["error"]["message"]
            assert (await client.get("/readyz")).status_code == 503
            wal = (await client.get("/tollway/v1/status")).json()["wal"]
            assert (wal["full"], wal["fsync"], wal["max_bytes"]) == (True, "none", 2 * 1024**3)
            assert wal["unsynced_bytes"] > 0
            metrics = (await client.get("/metrics")).text
            assert "tollway_ingress_wal_full 1.0" in metrics
            assert "tollway_ingress_wal_alarm 1.0" in metrics
            assert 'tollway_ingress_wal_fsync_seconds_bucket{le="0.0001"} 0.0' in metrics
            spool.problem = spool.alarm = ""
            spool.on_problem()
            answer = await client.post("/v1/chat/completions", json={"model": "m", "messages": []})
            assert answer.json()["error"]["code"] != "spool_full"
    finally:
        await ingress.stop()
