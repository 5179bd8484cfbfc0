"""What nothing reads is named; the schemes' own cases are tested where they are."""

import pytest
from runs import exactly

from hf_distill.schemes.idle import refuse_idle


def test_only_what_is_given_is_refused():
    refuse_idle("chain", "nobody asks", one=None, other=None)
    message = "chain: one=0 would change nothing, because nobody asks. Leave it out."
    with pytest.raises(ValueError, match=exactly(message)):
        refuse_idle("chain", "nobody asks", one=0, other=None)
    message = "chain: one='a', other=False would change nothing, because nobody asks. Leave them out."
    with pytest.raises(ValueError, match=exactly(message)):
        refuse_idle("chain", "nobody asks", one="a", other=False)
