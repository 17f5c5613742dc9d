"""What only torch_ext.Function has on a release of torch that lacks it."""

BACKPORTS = {"apply_boxed", "boxed_grads_call", "input_grad_buffers", "output_grad_dtypes", "set_output_grad_dtype"}
