"""Each test uses a new process, because a module is imported only once."""

from tests.command_line import run_python


def test_importing_tensorflow_prints_nothing_and_leaves_scikit_learn_usable():
    result = run_python(
        "from imgpipe.components.common.tf_import import keras, tf\n"
        "import os, sys\n"
        "tf.constant(1)\n"
        "assert 'sklearn' not in sys.modules\n"
        "import sklearn\n"
        "os.write(2, b'stderr works again')\n"
        "print(tf.__name__, keras.__name__)"
    )
    assert result.stdout.split() == ["tensorflow", "keras"]
    assert result.stderr == "stderr works again"
    assert result.returncode == 0


def test_output_is_shown_if_the_import_fails(tmp_path):
    (tmp_path / "keras.py").write_text(
        "import os\nos.write(2, b'the native reason')\nraise ImportError('no keras')\n"
    )
    result = run_python(
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "try:\n"
        "    import imgpipe.components.common.tf_import\n"
        "except ImportError as error:\n"
        "    print(error, 'sklearn' in sys.modules)"
    )
    assert result.stdout.strip() == "no keras False"
    assert result.stderr == "the native reason"
