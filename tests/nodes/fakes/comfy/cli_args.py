from types import SimpleNamespace

args = SimpleNamespace(cpu=True, disable_metadata=False)
