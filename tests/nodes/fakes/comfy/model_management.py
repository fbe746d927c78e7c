import torch


class InterruptProcessingException(BaseException):
    pass


interrupted = False


def interrupt_current_processing(value=True):
    global interrupted
    interrupted = value


def throw_exception_if_processing_interrupted():
    global interrupted
    if interrupted:
        interrupted = False
        raise InterruptProcessingException()


def intermediate_device():
    return torch.device("cpu")


def get_torch_device():
    return torch.device("cpu")


def unet_offload_device():
    return torch.device("cpu")


def load_models_gpu(models, memory_required=0):
    pass
