"""A balancer that tries what honest balancers might use, to find out what the sandbox breaks."""

import bz2
import collections
import contextlib
import copy
import ctypes
import datetime
import decimal
import fractions
import functools
import gc
import hashlib
import heapq
import importlib
import inspect
import io
import itertools
import json
import logging
import lzma
import math
import os
import pickle
import platform
import queue
import random
import resource
import signal
import sqlite3
import statistics
import sys
import threading
import time
import uuid
import warnings
import zlib

import numpy as np
import torch
from torch import nn

print("loaded", file=sys.stderr)
lock = threading.Lock()
LAZY = """argparse ast asyncio calendar concurrent.futures csv dataclasses difflib enum graphlib
multiprocessing optparse pathlib socket subprocess tempfile typing unittest urllib.request
xml.etree.ElementTree zoneinfo numpy.testing numpy.polynomial torch.distributions torch.export
torch.func torch.fx torch.optim torch.profiler torch.utils.data torch._dynamo torch._inductor
""".split()


def use_python():
    print("x" * 100_000)
    os.write(2, b"x")
    sys.stdin.read()
    warnings.warn("careful", stacklevel=1)
    logging.warning("careful")
    with lock, contextlib.redirect_stdout(io.StringIO()):
        print("elsewhere")
    queue.Queue().put(1)
    heapq.heapify([3, 1])
    random.seed(1)
    random.sample(range(9), 3)
    uuid.uuid4()
    os.urandom(8)
    hashlib.sha256(b"x").hexdigest()
    for module in (zlib, bz2, lzma):
        module.decompress(module.compress(b"x" * 1000))
    pickle.loads(pickle.dumps(json.loads(json.dumps({"a": [1.5]}))))
    statistics.stdev([1, 2])
    math.comb(9, 3), fractions.Fraction(1, 3), decimal.Decimal(1) / 3
    list(itertools.accumulate(collections.Counter("aab").values()))
    functools.lru_cache(lambda x: x)(1)
    gc.collect()
    sys.setrecursionlimit(5000)
    inspect.getsource(use_python)
    ctypes.CDLL(None).getpid()
    with contextlib.closing(sqlite3.connect(":memory:")) as database:
        database.execute("create table t(x)")
    for module in LAZY:
        importlib.import_module(module)


def use_system():
    for clock in (time.time, time.perf_counter, time.monotonic, time.process_time):
        clock()
    time.sleep(1e-4)
    time.strftime("%c", time.localtime())
    datetime.datetime.now()
    os.getpid(), os.getcwd(), os.cpu_count(), os.listdir("/usr"), os.stat("/usr")
    platform.machine(), platform.python_version()
    resource.getrlimit(resource.RLIMIT_AS)
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 1e-3)
    time.sleep(2e-3)


def use_numpy():
    generator = np.random.default_rng(0)
    a = generator.random((200, 200))
    np.zeros(50_000_000)[:] = 1
    np.linalg.svd(a), np.linalg.eigh(a @ a.T), np.linalg.lstsq(a, a, rcond=None), np.linalg.inv(a)
    np.argsort(a, kind="stable"), np.lexsort((a[0], a[1])), np.argpartition(a, 3), np.unique(a)
    np.einsum("ij,jk", a, a), np.fft.rfft(a), np.polyfit(range(5), range(5), 1), np.histogram(a)
    generator.dirichlet([1] * 4), generator.multinomial(5, [0.5, 0.5]), generator.choice(5, 3)
    np.random.seed(0), np.random.poisson(3, 5), np.interp(1, [0, 2], [0, 1])
    np.save(io.BytesIO(), a), np.loadtxt(io.StringIO("1 2"))


def use_torch():
    torch.manual_seed(0), torch.set_num_threads(1), torch.cuda.is_available()
    x = torch.rand(58, 256)
    y = x @ x.T + 500 * torch.eye(58)
    for solve in (torch.linalg.inv, torch.linalg.svd, torch.linalg.eigh, torch.linalg.cholesky):
        solve(y)
    torch.linalg.solve(y, x), torch.linalg.qr(x), torch.rand(1500, 1500) @ torch.rand(1500, 1500)
    x.sort(stable=True), x.topk(5), x.argsort(descending=True), x.cumsum(1), x.kthvalue(3)
    x.quantile(0.5), x.median(), torch.unique(x.int(), return_inverse=True), torch.fft.rfft(x)
    (
        torch.searchsorted(x.sort()[0], x),
        torch.histc(x),
        torch.cdist(x, x),
        x.bfloat16() @ x.bfloat16().T,
    )
    torch.zeros(4).scatter_reduce(0, torch.tensor([0, 1]), torch.ones(2), "amax")
    torch.multinomial(torch.ones(5), 3), torch.randperm(9), torch.normal(0.0, 1.0, (3,))
    nn.functional.conv1d(x[None], torch.rand(4, 58, 3)), nn.functional.one_hot(torch.arange(4))
    nn.LSTM(4, 4)(torch.rand(2, 3, 4)), nn.MultiheadAttention(4, 2)(*[torch.rand(2, 3, 4)] * 3)
    torch.vmap(lambda row: 2 * row)(x), torch.jit.trace(lambda a: a + 1, x)(x)
    torch.save(x, io.BytesIO()), copy.deepcopy(x), torch.distributions.Categorical(x).sample()
    weights = torch.rand(3, requires_grad=True)
    optimizer = torch.optim.Adam([weights])
    (weights * weights).sum().backward()
    optimizer.step()


def rebalance_experts(weight, num_replicas, num_groups, num_nodes, num_gpus):
    for use in (use_python, use_system, use_numpy, use_torch):
        use()
    layers, experts = weight.shape
    slot = torch.arange(num_replicas)
    phy2log = (slot % experts).repeat(layers, 1)
    return phy2log, phy2log[:, :, None], phy2log
