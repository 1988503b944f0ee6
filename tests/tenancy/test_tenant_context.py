"""The tenant is the innermost one entered, in this task alone, and never nobody."""

import asyncio
import contextvars
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepseek.core.errors import TenancyError
from deepseek.tenancy import TenantContext, TenantDatabase, check_tenant, current_tenant


def test_no_tenant_is_an_error() -> None:
    with pytest.raises(TenancyError, match="no tenant is set"):
        current_tenant()


def test_contexts_nest_and_come_back() -> None:
    with TenantContext("a"):
        with TenantContext("b"):
            assert current_tenant() == "b"
        assert current_tenant() == "a"
    with pytest.raises(TenancyError):
        current_tenant()


def test_an_exception_leaves_the_context() -> None:
    with pytest.raises(KeyError), TenantContext("a"):
        raise KeyError
    with pytest.raises(TenancyError):
        current_tenant()


def test_leaving_out_of_order_is_an_error_and_changes_nothing() -> None:
    outer, inner = TenantContext("a"), TenantContext("b")
    outer.__enter__()
    inner.__enter__()
    with pytest.raises(TenancyError, match="out of order"):
        outer.__exit__(None, None, None)
    assert current_tenant() == "b"
    inner.__exit__(None, None, None)
    outer.__exit__(None, None, None)


def test_a_context_that_is_entered_cannot_be_entered_again_but_later() -> None:
    context = TenantContext("a")
    with context, pytest.raises(TenancyError, match="entered already"):
        context.__enter__()
    with context:
        assert current_tenant() == "a"


def test_tasks_inherit_the_tenant_and_do_not_change_their_parents() -> None:
    async def child() -> str:
        TenantDatabase.switch("child")
        await asyncio.sleep(0)
        return current_tenant()

    async def parent() -> tuple[str, str]:
        with TenantContext("parent"):
            task = asyncio.create_task(child())
            inherited = await asyncio.create_task(asyncio.to_thread(current_tenant))
            assert await task == "child"
            return inherited, current_tenant()

    assert asyncio.run(parent()) == ("parent", "parent")


def test_a_task_outlives_the_context_it_was_made_in_and_keeps_its_tenant() -> None:
    async def later(go: asyncio.Event) -> str:
        await go.wait()
        return current_tenant()

    async def main() -> str:
        go = asyncio.Event()
        with TenantContext("a"):
            task = asyncio.create_task(later(go))
        go.set()
        return await task

    assert asyncio.run(main()) == "a"


def test_concurrent_tasks_of_many_tenants_never_see_each_other() -> None:
    async def one(name: str) -> bool:
        with TenantContext(name):
            for _ in range(20):
                await asyncio.sleep(0)
                if current_tenant() != name:
                    return False
        return True

    async def main() -> list[bool]:
        return await asyncio.gather(*(one(f"t{number}") for number in range(50)))

    assert all(asyncio.run(main()))


def test_a_thread_of_its_own_has_no_tenant_unless_it_is_given_the_context() -> None:
    seen: list[str] = []

    def look() -> None:
        try:
            seen.append(current_tenant())
        except TenancyError:
            seen.append("none")

    with TenantContext("a"):
        copied = contextvars.copy_context()
        for target in (look, lambda: copied.run(look)):
            thread = threading.Thread(target=target)
            thread.start()
            thread.join()
    assert seen == ["none", "a"]


def test_a_context_cannot_be_left_in_another_task() -> None:
    async def main() -> None:
        with TenantContext("a") as context:

            async def leave() -> None:
                context.__exit__(None, None, None)

            with pytest.raises(TenancyError, match="another task"):
                await asyncio.create_task(leave())
            assert current_tenant() == "a"

    asyncio.run(main())


def test_switch_and_reset_work_as_the_class_of_ones_own_that_uses_them() -> None:
    class OwnContext:
        def __init__(self, tenant_id: str) -> None:
            self.tenant_id = tenant_id

        def __enter__(self) -> None:
            TenantDatabase.switch(self.tenant_id)

        def __exit__(self, *given: object) -> None:
            TenantDatabase.reset()

    with OwnContext("tenant_123"):
        assert current_tenant() == "tenant_123"
    with pytest.raises(TenancyError):
        TenantDatabase.reset()


def test_reset_does_not_leave_what_a_context_entered() -> None:
    with TenantContext("a"):
        with pytest.raises(TenancyError, match="out of order"):
            TenantDatabase.reset()
        assert current_tenant() == "a"


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "a/b",
        "a\\b",
        "a b",
        "-a",
        "_a",
        "a\n",
        "a\0",
        "租户",
        "é",
        "x" * 129,
        None,
        3,
        "CON\u0301",
    ],
)
def test_a_name_that_could_be_a_path_or_be_mistaken_is_refused(name: object) -> None:
    with pytest.raises(TenancyError):
        check_tenant(name)


@given(st.text(max_size=20))
def test_whatever_is_taken_as_a_name_is_plain(name: str) -> None:
    try:
        check_tenant(name)
    except TenancyError:
        return
    assert name.isascii() and "/" not in name and not name.startswith(".") and name.isprintable()
