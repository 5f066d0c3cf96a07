"""Starts hatchery-core on the CPU: its gateway, and its worker with a small model in single precision.

Usage: start_hatchery.py PORT KEY MODEL DIRECTORY. Hatchery has launchers of its own, but the one for a CPU has a scripted worker,
which answers few requests, and the others want a GPU. All files are written to DIRECTORY.
"""

import asyncio
import contextlib
import os
import sys


async def serve(port, key, model, directory):
    import torch
    import uvicorn
    from hatchery.core.gateway import create_app, set_config
    from hatchery.core.unified import build_unified_config
    from hatchery.core.worker import GPUWorker

    torch.set_num_threads(2)
    config = build_unified_config(persistent=True, root=directory)
    # The suite creates more models than a free account may have.
    config.auth.add_key(key, user_id="peer", tier="enterprise", max_concurrent_sessions=10_000, max_rank=256)
    await config.metadata.initialize()
    await config.queue.initialize()
    set_config(config)
    worker = GPUWorker("peer", model, config, device="cpu", dtype=torch.float32)
    await worker.register()

    async def work():
        while True:
            job = await config.queue.dequeue(worker_id="peer", model_filter=model, visibility_timeout=300)
            if job is None:
                await asyncio.sleep(0.005)
            else:
                await worker._process_one(job)

    app = create_app(config=config)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="info", lifespan="off"))

    def stop(_):
        server.should_exit = True

    working = asyncio.create_task(work())
    # Without its worker, the server would accept jobs that never end. Awaiting the task below raises the worker's error.
    working.add_done_callback(stop)
    await server.serve()
    working.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await working


if __name__ == "__main__":
    port, key, model, directory = sys.argv[1:]
    os.makedirs(directory, exist_ok=True)
    os.environ["HATCHERY_WORKER_LOCAL_DIR"] = os.path.join(directory, "worker")
    asyncio.run(serve(int(port), key, model, directory))
