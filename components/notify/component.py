"""The call of the webhook as a KFP component."""


def notify() -> None:
    """Posts the end of the run to the webhook, if there is one: its state, and the step and the reason."""
    from imgpipe.components.notify.notify import report_run

    report_run()
