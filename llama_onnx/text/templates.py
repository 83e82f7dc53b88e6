"""Prompt templates: turn a conversation, or one instruction, into the text that a model was trained to answer.

- `plain`: the text as it is, to be continued.
- `alpaca`: the built-in instruction format of Stanford Alpaca.
- `chat`: the model's own Jinja template (`chat_template.jinja`, or `chat_template` in `tokenizer_config.json`). The
  optional `jinja2` renders it as transformers does, in its sandbox, because a template is downloaded code.

A chat template writes BOS and the other special tokens as text, which become tokens when its output is encoded. Those
in a message stay text (`control.py`): a message that contains `<|im_end|>` does not end its turn.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import TEMPLATES, ModelConfig
from ..errors import LlamaOnnxError, MissingDependencyError, ModelDirectoryError, RequestError
from .added_tokens import CONFIG, read_tokenizer_files

if TYPE_CHECKING:
    import jinja2

CHAT_FILE = "chat_template.jinja"
CHOICES = ("auto", *TEMPLATES)
SAFE_JINJA = (3, 1, 6)  # earlier versions have known sandbox escapes
ALPACA = "Below is an instruction that describes a task. Write a response that appropriately completes the request."

Message = Mapping[str, Any]


@dataclass(frozen=True)
class Template:
    """How messages are turned into a prompt.

    Attributes:
        name: 'plain', 'alpaca' or 'chat'.
        source: the Jinja source of a chat template.
        path: the file that contains it.
        special_texts: {'bos_token': '<s>', …}, variables of the chat template.
    """

    name: str
    source: str = ""
    path: Path = Path()
    special_texts: Mapping[str, str] = field(default_factory=dict)

    @property
    def writes_special_tokens(self) -> bool:
        """Whether the rendered text already contains special tokens, including BOS."""
        return self.name == "chat"


def choose_template(config: ModelConfig, name: str = "auto", has_tools: bool = False) -> Template:
    """Return a template by its name.

    Args:
        config: the configuration of the model.
        name: 'plain', 'alpaca', 'chat' or 'auto': the template that the manifest names, otherwise the model's own chat
            template, otherwise plain.
        has_tools: choose the chat template for conversations with tools, if the model has several templates.

    Raises:
        RequestError: the name is unknown, or it is 'chat' and the model has no chat template.
        ModelDirectoryError: the files with the chat template are damaged.
    """
    if name not in CHOICES:
        raise RequestError(f"template must be one of {', '.join(CHOICES)}, not {name!r}")
    if name == "auto":
        name = config.template or ""
    chat = _chat_template(config.directory, has_tools) if name in ("", "chat") else None
    if name == "chat" and chat is None:
        raise RequestError(f"{config.directory} has no chat template; use --template plain or alpaca")
    return chat or Template(name or "plain")


def render(
    template: Template, messages: Sequence[Message], add_generation_prompt: bool = True, **variables: Any
) -> str:
    """Return the text of a conversation.

    Args:
        template: from `choose_template`.
        messages: [{"role": "system" | "user" | "assistant", "content": text}, …], the oldest first.
        add_generation_prompt: end with the text that starts an answer.
        **variables: other variables for the chat template (`tools`, `documents`, `enable_thinking` …).

    Raises:
        RequestError: there are no messages, a message is malformed, or the template rejects the messages.
        ModelDirectoryError: the chat template is not valid, or tries to escape the sandbox.
        MissingDependencyError: the template is a chat template and jinja2 is not installed.

    Example:
        >>> render(choose_template(config), [{"role": "user", "content": "bonjour"}])
    """
    if not messages:
        raise RequestError("there is no message to answer; pass at least one")
    for message in messages:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise RequestError(f"a message must be {{'role': …, 'content': …}}, not {str(message)[:80]}")
    if template.name == "chat":
        return _render_jinja(template, messages, add_generation_prompt, variables)
    texts = [(message["role"], _content(message)) for message in messages]
    return _alpaca(texts, add_generation_prompt) if template.name == "alpaca" else "\n".join(text for _, text in texts)


def _alpaca(texts: Sequence[tuple[str, str]], add_generation_prompt: bool) -> str:
    """Return alternating instructions and responses. A system message replaces the usual first lines."""
    system = "\n\n".join(text for role, text in texts if role == "system") or ALPACA
    parts = [system]
    for role, text in texts:
        if role != "system":
            parts.append(f"### {'Response' if role == 'assistant' else 'Instruction'}:\n{text}")
    if add_generation_prompt:
        parts.append("### Response:\n")
    return "\n\n".join(parts)


def _content(message: Message) -> str:
    content = message.get("content")
    if not isinstance(content, str):
        raise RequestError(f"the content of a message must be a string, not {str(content)[:80]}")
    return content


def _chat_template(directory: Path, has_tools: bool) -> Template | None:
    """Return the model's own template. A template file takes precedence over the field in `tokenizer_config.json`."""
    files = read_tokenizer_files(directory)
    path = directory / CHAT_FILE
    source: Any = None
    try:
        source = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        path = directory / CONFIG
        source = files.config.get("chat_template")
    except (OSError, ValueError) as error:
        raise ModelDirectoryError(f"{path}: cannot be read ({error}); copy it from the checkpoint again") from None
    if isinstance(source, list):  # [{'name': 'default', 'template': …}, {'name': 'tool_use', …}]
        source = {entry.get("name"): entry.get("template") for entry in source if isinstance(entry, dict)}
    if isinstance(source, dict):
        source = (source.get("tool_use") if has_tools else None) or source.get("default")
    if source is None:
        return None
    if not isinstance(source, str):
        raise ModelDirectoryError(f"{path}: its chat template is not a string; copy the file from the checkpoint again")
    return Template("chat", source, path, files.special_texts)


def _render_jinja(template: Template, messages: Sequence[Message], prompt: bool, variables: Mapping[str, Any]) -> str:
    jinja2 = _import_jinja(template.path)
    given = {"tools": None, "documents": None, **template.special_texts, **_plain(variables)}
    try:
        compiled = _compile(template.source)
        return str(compiled.render({**given, "messages": _plain(messages), "add_generation_prompt": prompt}))
    except jinja2.exceptions.TemplateSyntaxError as error:
        raise ModelDirectoryError(f"{template.path}: chat template, line {error.lineno}: {error.message}") from None
    except jinja2.exceptions.SecurityError as error:
        raise ModelDirectoryError(f"{template.path}: the chat template tries to escape its sandbox: {error}") from None
    except LlamaOnnxError:
        raise
    except Exception as error:  # template code may fail in any way, or raise an error on purpose
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise RequestError(f"the chat template cannot be used with these messages: {reason}") from None


def _import_jinja(path: Path) -> Any:
    need = (
        f"{path}: a chat template needs jinja2 {'.'.join(map(str, SAFE_JINJA))} or newer: pip install -U jinja2 "
        "(or use --template plain)"
    )
    try:
        import jinja2
        import jinja2.sandbox
    except ImportError:
        raise MissingDependencyError(need) from None
    version = tuple(int(part) for part in jinja2.__version__.split(".")[:3] if part.isdecimal())
    if version < SAFE_JINJA:
        raise MissingDependencyError(need)
    return jinja2


@lru_cache(maxsize=8)
def _compile(source: str) -> jinja2.Template:
    """Compile a template in the same environment as transformers does."""
    from jinja2 import nodes
    from jinja2.exceptions import SecurityError, TemplateError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from jinja2.utils import Namespace

    class Generation(Extension):
        """`{% generation %}` marks answers for training; here it just renders its contents."""

        tags = {"generation"}  # noqa: RUF012  as in the base class

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    class PlainNamespace(Namespace):
        """A namespace that rejects the names Python itself looks up, such as `__class__`."""

        def __setitem__(self, name: str, value: Any) -> None:
            if name.startswith("_"):
                raise SecurityError(f"it sets {name!r} in a namespace")
            super().__setitem__(name, value)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def strftime_now(form: str) -> str:
        return datetime.now().strftime(form)

    def tojson(value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, **more: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, **more)

    def namespace(*args: Any, **values: Any) -> Namespace:
        made = PlainNamespace()
        for name, value in dict(*args, **values).items():
            made[name] = value
        return made

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson  # the one in jinja2 escapes HTML
    functions = (raise_exception, strftime_now, namespace)
    environment.globals |= {function.__name__: function for function in functions}
    return environment.from_string(source)


def _plain(value: Any) -> Any:
    """Return a copy made of JSON types only, so that a template gets no object with methods of other types."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or type(value) in (str, int, float, bool):
        return value
    raise RequestError(f"messages may contain strings, numbers, lists and objects, not {type(value).__name__}")
